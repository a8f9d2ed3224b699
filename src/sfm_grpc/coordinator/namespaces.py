"""Namespaces of memories: created, described, listed, and deleted with all that is in them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sfm_grpc.coordinator import events, names, pages
from sfm_grpc.coordinator.commit import CommitPath
from sfm_grpc.coordinator.indexing import Indexer
from sfm_grpc.coordinator.memories import MemoryMutation, MemoryRules
from sfm_grpc.coordinator.pages import PageTokens
from sfm_grpc.errors import ConfirmationRequired, InvalidRequest, LimitExceeded, NotFound, VersionConflict
from sfm_grpc.model import (
    CommitResult,
    DeleteMatrix,
    Distance,
    DropSpace,
    MemoryWrites,
    RequestIdentity,
    Scope,
    Space,
    Transaction,
    Version,
)
from sfm_grpc.storage.contract import Store
from sfm_grpc.storage.index_contract import DeadLetter

_REFUSED_SHOWN = 100
# Others may commit to its matrices while it is deleted.
_ROUNDS_MAX = 10


@dataclass(frozen=True, slots=True)
class Described:
    """A namespace, and how far the index is with it."""

    space: Space
    indexed: int
    refused: Sequence[DeadLetter]


@dataclass(frozen=True, slots=True)
class Deleted:
    """The answer to a deletion."""

    revision: int
    """0: it had no memories."""
    version: int
    """0: it held no matrices."""
    replayed: bool


class NamespaceCoordinator:
    """Decides about namespaces as wholes."""

    def __init__(self, store: Store, commits: CommitPath, indexer: Indexer, rules: MemoryRules) -> None:
        self._store = store
        self._commits = commits
        self._indexer = indexer
        self._rules = rules

    async def create(self, scope: Scope, dimension: int, distance: Distance) -> tuple[Space, bool]:
        """Creates a namespace; what it is, and whether it existed. Raises InvalidRequest, LimitExceeded, AlreadyExists."""
        names.check_name(scope.namespace, "namespace")
        if dimension < 0:
            raise InvalidRequest(field="dimension", problem=f"is {dimension}; it must be 0 or more")
        limit = self._rules.bounds.vector_dimension_max
        if dimension > limit:
            raise LimitExceeded(limit="vector_dimension_max", value=dimension, maximum=limit, field="dimension")
        return await self._store.memories.create_space(scope, dimension, distance, _now_us())

    async def describe(self, scope: Scope) -> Described:
        """Raises InvalidRequest, NotFound, StoreUnavailable."""
        names.check_name(scope.namespace, "namespace")
        found = await self._indexer.progress(scope)
        if found is None:
            raise NotFound(what="namespace", namespace=scope.namespace)
        space = found.space
        if not space.dimension:
            return Described(space, space.revision, ())
        return Described(space, found.indexed, await self._indexer.refused(space.number, _REFUSED_SHOWN))

    async def page(self, tenant: str, page_size: int, page_token: str) -> tuple[Sequence[tuple[str, Space]], str]:
        """A page of a tenant's namespaces, and the token of the next. Raises InvalidRequest, StoreUnavailable."""
        size = pages.size(page_size, self._rules.page_size_max)
        tokens = PageTokens("namespaces", tenant)
        found = await self._store.memories.spaces(tenant, after=tokens.name(page_token), limit=size + 1)
        return found[:size], tokens.after(found[size - 1][0]) if len(found) > size else ""

    # ---- deleting

    async def delete(self, mutation: MemoryMutation, confirm: str, if_revision: int | None) -> Deleted:
        """Deletes a namespace: its memories for good, its matrices by a commit, both or neither.

        Raises InvalidRequest, ConfirmationRequired, NotFound, VersionConflict, and what `Store.commit` raises.
        """
        names.check_name(mutation.scope.namespace, "namespace")
        names.check_request_id(mutation.request_id)
        if if_revision is not None and if_revision < 1:
            raise InvalidRequest(field="if_revision", problem=f"is {if_revision}; revisions start at 1")
        if confirm != mutation.scope.namespace:
            raise await self._unconfirmed(mutation.scope)
        for last in [False] * (_ROUNDS_MAX - 1) + [True]:
            head = await self._head(mutation.scope)
            try:
                done = await self._drop(mutation, head, if_revision)
            except VersionConflict as conflict:
                # Of its matrices: somebody commits to them at this moment. The caller has said nothing about their version.
                if conflict.field == "if_revision" or last:
                    raise
                continue
            return Deleted(done.memories[0].revision, done.number, done.replayed)
        raise AssertionError("the last round returns or raises")

    async def _drop(self, mutation: MemoryMutation, head: Version | None, if_revision: int | None) -> CommitResult:
        scope, now_us, held = mutation.scope, _now_us(), head.entries if head else ()
        asked = hashlib.sha256(repr(["delete namespace", if_revision]).encode()).digest()
        drop = DropSpace(if_revision, required=not held)
        expected = head.version if head is not None and held else None
        transaction = Transaction(
            scope=scope,
            changes=tuple(DeleteMatrix(entry.key) for entry in held),
            expected_version=expected,
            request=RequestIdentity(mutation.method, mutation.request_id, asked) if mutation.request_id else None,
            committer=mutation.committer,
            time_us=now_us,
            receipt=b"",
            event_of=events.rho_status(self._rules.node_id, scope) if held else None,
            memories=MemoryWrites((drop,), events.memory_event(self._rules.node_id, scope, now_us)),
            deadline=mutation.deadline,
            validate_only=mutation.validate_only,
        )
        planted = await self._commits.plant(scope, expected) if expected is not None else None
        return await self._commits.commit(transaction, planted)

    async def _head(self, scope: Scope) -> Version | None:
        try:
            page = await self._store.versions(scope, before=None, limit=1)
        except NotFound:
            return None
        return page.versions[0] if page.versions else None

    async def _unconfirmed(self, scope: Scope) -> ConfirmationRequired:
        space, head = await self._store.memories.space(scope), await self._head(scope)
        matrices = len(head.entries) if head else 0
        if space is None and not matrices:
            raise NotFound(what="namespace", namespace=scope.namespace)
        return ConfirmationRequired(
            namespace=scope.namespace,
            memories=space.memories if space else 0,
            matrices=matrices,
            revision=space.revision if space else 0,
            version=head.version if head else 0,
        )


def _now_us() -> int:
    return time.time_ns() // 1000
