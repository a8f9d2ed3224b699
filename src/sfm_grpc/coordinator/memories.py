"""Memories: builds the transactions that write them, and answers what is asked of them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sfm_grpc.coordinator import events, names, pages, sent_memories
from sfm_grpc.coordinator.commit import CommitPath
from sfm_grpc.coordinator.pages import PageTokens
from sfm_grpc.coordinator.sent_memories import MemoryBounds, SentMemory
from sfm_grpc.errors import InvalidRequest, LimitExceeded, NotFound
from sfm_grpc.model import (
    COORDINATES_MAX,
    DeleteMemory,
    Memory,
    MemoryChange,
    MemoryFilter,
    MemoryOrder,
    MemoryQuery,
    MemoryReceipt,
    MemoryWrites,
    PurgeMemory,
    RequestIdentity,
    Scope,
    Transaction,
    TypeStats,
    UndeleteMemory,
)
from sfm_grpc.storage.contract import Store
from sfm_grpc.storage.memory_columns import place_of

_TYPES_MAX = 64


@dataclass(frozen=True, slots=True)
class MemoryRules:
    """The bounds that memories and questions about them are held to."""

    bounds: MemoryBounds
    page_size_max: int
    undelete_s: int
    node_id: str


@dataclass(frozen=True, slots=True)
class MemoryMutation:
    """What every mutation of memories says besides its changes."""

    method: str
    scope: Scope
    request_id: str
    committer: str
    validate_only: bool
    deadline: float
    """On time.monotonic(): work that has not begun by then is not begun."""

    def transaction(self, changes: Sequence[MemoryChange], digest: bytes, now_us: int, node_id: str) -> Transaction:
        """The transaction of these changes; `digest` is of what was asked for, in the form that two requests are compared by."""
        return Transaction.of_memories(
            self.scope,
            MemoryWrites(tuple(changes), events.memory_event(node_id, self.scope, now_us)),
            now_us,
            request=RequestIdentity(self.method, self.request_id, digest) if self.request_id else None,
            committer=self.committer,
            deadline=self.deadline,
            validate_only=self.validate_only,
        )


@dataclass(frozen=True, slots=True)
class Written:
    """The answer to a mutation."""

    receipts: Sequence[MemoryReceipt]
    replayed: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list asks for."""

    scope: Scope
    chosen: MemoryFilter
    order: MemoryOrder
    descending: bool
    page_size: int
    page_token: str
    payloads: bool
    vectors: bool


class MemoryCoordinator:
    """Decides what may be written, and what is answered; executes nothing itself."""

    def __init__(self, store: Store, commits: CommitPath, rules: MemoryRules) -> None:
        self._store = store
        self._commits = commits
        self._rules = rules

    # ---- writing

    async def put(self, mutation: MemoryMutation, sent: Sequence[SentMemory]) -> Written:
        """Puts memories, all or none.

        Raises InvalidRequest, LimitExceeded, AlreadyExists, VersionConflict, NotFound, and what `Store.commit` raises.
        """
        self._check_mutation(mutation)
        now_us = _now_us()
        changes, content = await sent_memories.examined(sent, "puts", self._rules.bounds, now_us)
        return await self._write(mutation, changes, _digest_of(content), now_us)

    async def delete(self, mutation: MemoryMutation, keys: Sequence[str], if_revision: int | None = None) -> Written:
        """Deletes memories, all or none; absent ones are left alone. Raises as `put`."""
        self._check_keys(mutation, keys)
        if if_revision is not None and if_revision < 1:
            raise InvalidRequest(field="if_revision", problem=f"is {if_revision}; revisions start at 1")
        changes = [DeleteMemory(key, if_revision, "if_revision") for key in keys]
        return await self._write(mutation, changes, _digest_of([*keys, if_revision]), _now_us())

    async def undelete(self, mutation: MemoryMutation, keys: Sequence[str]) -> Written:
        """Makes deleted memories be there again, all or none. Raises as `put`."""
        self._check_keys(mutation, keys)
        now_us = _now_us()
        since_us = now_us - self._rules.undelete_s * 1_000_000
        return await self._write(mutation, [UndeleteMemory(key, since_us) for key in keys], _digest_of(keys), now_us)

    async def purge(self, mutation: MemoryMutation, keys: Sequence[str]) -> Written:
        """Deletes memories for good, all or none. Raises as `put`."""
        self._check_keys(mutation, keys)
        return await self._write(mutation, [PurgeMemory(key) for key in keys], _digest_of(keys), _now_us())

    async def _write(self, mutation: MemoryMutation, changes: Sequence[MemoryChange], digest: bytes, now_us: int) -> Written:
        result = await self._commits.commit(mutation.transaction(changes, digest, now_us, self._rules.node_id))
        return Written(result.memories, result.replayed)

    # ---- reading

    async def get(self, scope: Scope, key: str, *, vector: bool) -> Memory:
        """One memory. Raises InvalidRequest, NotFound, StoreUnavailable."""
        names.check_name(scope.namespace, "namespace")
        names.check_name(key, "key")
        found = await self._store.memories.get(scope, [key], now_us=_now_us(), vectors=vector)
        if not found:
            raise NotFound(what="memory", namespace=scope.namespace, names=(key,))
        return found[0]

    async def batch_get(self, scope: Scope, keys: Sequence[str], *, vectors: bool) -> tuple[list[Memory], list[str]]:
        """Those that exist, and the keys of those that do not, in the order of the keys.

        Raises InvalidRequest, LimitExceeded, StoreUnavailable.
        """
        names.check_name(scope.namespace, "namespace")
        self._check_each(keys)
        found = {m.key: m for m in await self._store.memories.get(scope, keys, now_us=_now_us(), vectors=vectors)}
        return [found[key] for key in keys if key in found], [key for key in keys if key not in found]

    async def page(self, asked: Listing) -> tuple[Sequence[Memory], str]:
        """A page, and the token of the next. Raises InvalidRequest, LimitExceeded, NotFound (namespace), StoreUnavailable."""
        names.check_name(asked.scope.namespace, "namespace")
        check_filter(asked.chosen)
        size = pages.size(asked.page_size, self._rules.page_size_max)
        query = MemoryQuery(
            chosen=asked.chosen,
            order=asked.order,
            descending=asked.descending,
            after=_after(asked),
            limit=size + 1,
            now_us=_now_us(),
            payloads=asked.payloads,
            vectors=asked.vectors,
        )
        found = await self._store.memories.page(asked.scope, query)
        shown = found[:size]
        return shown, _tokens(asked).after(place_of(query, shown[-1])) if len(found) > size else ""

    async def stats(self, scope: Scope, chosen: MemoryFilter) -> Sequence[TypeStats]:
        """What there is of each type. Raises InvalidRequest, LimitExceeded, NotFound (namespace), StoreUnavailable."""
        names.check_name(scope.namespace, "namespace")
        check_filter(chosen)
        return await self._store.memories.stats(scope, chosen, _now_us())

    # ---- checks

    def _check_mutation(self, mutation: MemoryMutation) -> None:
        names.check_name(mutation.scope.namespace, "namespace")
        names.check_request_id(mutation.request_id)

    def _check_keys(self, mutation: MemoryMutation, keys: Sequence[str]) -> None:
        self._check_mutation(mutation)
        self._check_each(keys)

    def _check_each(self, keys: Sequence[str]) -> None:
        sent_memories.check_keys(keys, "keys", self._rules.bounds.batch_max)


def check_filter(chosen: MemoryFilter) -> None:
    """Raises InvalidRequest, LimitExceeded."""
    if chosen.key_prefix:
        names.check_name(chosen.key_prefix, "filter.key_prefix")
    if len(chosen.box) > COORDINATES_MAX:
        raise LimitExceeded(limit="coordinates_max", value=len(chosen.box), maximum=COORDINATES_MAX, field="filter.box")
    if len(chosen.memory_types) > _TYPES_MAX:
        raise LimitExceeded(
            limit="filter_types_max", value=len(chosen.memory_types), maximum=_TYPES_MAX, field="filter.memory_types"
        )
    ranges = {"importance": chosen.importance, "create_time": chosen.create_time_us, "update_time": chosen.update_time_us}
    ranges |= {f"box[{place}]": between for place, between in enumerate(chosen.box)}
    for name, between in ranges.items():
        if between.low is not None and between.high is not None and not between.low <= between.high:
            raise InvalidRequest(
                field=f"filter.{name}", problem=f"goes from {between.low:g} to {between.high:g}: nothing is in it"
            )


def _tokens(asked: Listing) -> PageTokens:
    return PageTokens("memories", replace(asked, page_size=0, page_token=""))


def _after(asked: Listing) -> tuple[float | int | str, str] | None:
    match _tokens(asked).place(asked.page_token):
        case None:
            return None
        case [str() | int() | float() as value, str() as key]:
            return value, key
    raise pages.not_of_this_list()


def _digest_of(content: Sequence[object]) -> bytes:
    return hashlib.sha256(repr(content).encode()).digest()


def _now_us() -> int:
    return time.time_ns() // 1000
