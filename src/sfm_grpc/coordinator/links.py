"""Links from memories to memories: put, deleted, listed. Nobody follows them here further than one step."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sfm_grpc.coordinator import names, pages
from sfm_grpc.coordinator.commit import CommitPath
from sfm_grpc.coordinator.memories import MemoryMutation, MemoryRules
from sfm_grpc.coordinator.pages import PageTokens
from sfm_grpc.errors import InvalidRequest, LimitExceeded
from sfm_grpc.model import (
    CommitResult,
    DeleteLink,
    Link,
    LinkName,
    LinkQuery,
    Outcome,
    PutLink,
    Scope,
)
from sfm_grpc.storage.contract import Store

_TYPES_MAX = 64


@dataclass(frozen=True, slots=True)
class SentLink:
    """A link as it was sent."""

    name: LinkName
    weight: float


@dataclass(frozen=True, slots=True)
class LinkListing:
    """What a list of links asks for."""

    scope: Scope
    key: str
    incoming: bool
    link_types: tuple[str, ...]
    page_size: int
    page_token: str


class LinkCoordinator:
    """Decides which links may be written, and answers what is asked of them."""

    def __init__(self, store: Store, commits: CommitPath, rules: MemoryRules) -> None:
        self._store = store
        self._commits = commits
        self._rules = rules

    async def put(self, mutation: MemoryMutation, sent: Sequence[SentLink]) -> bool:
        """Puts links, all or none; whether this is the first answer again.

        Raises InvalidRequest, LimitExceeded, NotFound (of an end), and what `Store.commit` raises.
        """
        self._check(mutation, sent)
        for place, link in enumerate(sent):
            if not math.isfinite(link.weight):
                raise InvalidRequest(field=f"links[{place}].weight", problem=f"is {link.weight}; it must be finite")
        # SQLite knows one zero only, so there is one everywhere.
        changes = [PutLink(link.name, link.weight + 0.0, f"links[{place}]") for place, link in enumerate(sent)]
        done = await self._commit(mutation, changes, [(link.name, link.weight) for link in sent])
        return done.replayed

    async def delete(self, mutation: MemoryMutation, sent: Sequence[SentLink]) -> tuple[int, bool]:
        """Deletes links, all or none; how many there were, and whether this is the first answer again. Raises as `put`."""
        self._check(mutation, sent)
        done = await self._commit(mutation, [DeleteLink(link.name) for link in sent], [link.name for link in sent])
        return sum(r.outcome is Outcome.UNLINKED for r in done.memories), done.replayed

    async def _commit(
        self, mutation: MemoryMutation, changes: Sequence[PutLink | DeleteLink], asked: Sequence[object]
    ) -> CommitResult:
        digest = hashlib.sha256(repr(asked).encode()).digest()
        return await self._commits.commit(mutation.transaction(changes, digest, _now_us(), self._rules.node_id))

    async def page(self, asked: LinkListing) -> tuple[Sequence[Link], str]:
        """A page, and the token of the next. Raises InvalidRequest, LimitExceeded, NotFound, StoreUnavailable."""
        names.check_name(asked.scope.namespace, "namespace")
        names.check_name(asked.key, "key")
        if len(asked.link_types) > _TYPES_MAX:
            raise LimitExceeded(limit="filter_types_max", value=len(asked.link_types), maximum=_TYPES_MAX, field="link_types")
        size = pages.size(asked.page_size, self._rules.page_size_max)
        tokens = PageTokens("links", asked.scope, asked.key, asked.incoming, asked.link_types)
        query = LinkQuery(
            key=asked.key,
            incoming=asked.incoming,
            link_types=asked.link_types,
            after=_after(tokens, asked.page_token),
            limit=size + 1,
            now_us=_now_us(),
        )
        found = await self._store.memories.links(asked.scope, query)
        return found[:size], tokens.after(_place(found[size - 1], query)) if len(found) > size else ""

    def _check(self, mutation: MemoryMutation, sent: Sequence[SentLink]) -> None:
        names.check_name(mutation.scope.namespace, "namespace")
        names.check_request_id(mutation.request_id)
        limit = self._rules.bounds.batch_max
        if not sent:
            raise InvalidRequest(field="links", problem="is empty")
        if len(sent) > limit:
            raise LimitExceeded(limit="batch_max", value=len(sent), maximum=limit, field="links")
        seen: dict[LinkName, int] = {}
        for place, link in enumerate(sent):
            for name, part in zip(("source_key", "link_type", "target_key"), link.name, strict=True):
                names.check_name(part, f"links[{place}].{name}")
            if link.name in seen:
                raise InvalidRequest(
                    field=f"links[{place}]", problem=f"is links[{seen[link.name]}] again; each may be there once"
                )
            seen[link.name] = place


def _place(link: Link, query: LinkQuery) -> tuple[str, str]:
    source, link_type, target = link.name
    return link_type, source if query.incoming else target


def _after(tokens: PageTokens, token: str) -> tuple[str, str] | None:
    match tokens.place(token):
        case None:
            return None
        case [str() as link_type, str() as other]:
            return link_type, other
    raise pages.not_of_this_list()


def _now_us() -> int:
    return time.time_ns() // 1000
