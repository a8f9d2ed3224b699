"""What every engine promises of memories, besides `storage.contract.Store.commit`, which writes them.

`storage.memories.decide` says what a transaction makes of them; tests/contract is the same as this page in code.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from sfm_grpc.model import Distance, Link, LinkQuery, Memory, MemoryFilter, MemoryQuery, Scope, Space, TypeStats


class MemoryTables(Protocol):
    """The memories of a canonical store. Each question is one consistent look, and raises StoreUnavailable as `Store` says."""

    async def space(self, scope: Scope) -> Space | None:
        """A namespace's memories as a whole; None where nothing was ever put there and nobody created it."""

    async def spaces(self, tenant: str, *, after: str, limit: int) -> Sequence[tuple[str, Space]]:
        """Those of a tenant after a name, in the order of their UTF-8 bytes."""

    async def create_space(self, scope: Scope, dimension: int, distance: Distance, time_us: int) -> tuple[Space, bool]:
        """Creates a namespace; what it is, and whether it was that already.

        One that exists without a dimension (0) takes this one, and this distance. Raises AlreadyExists for one that has another.
        """

    async def get(self, scope: Scope, keys: Collection[str], *, now_us: int, vectors: bool) -> Sequence[Memory]:
        """Those of these keys that live, in any order; their vectors only with `vectors`."""

    async def page(self, scope: Scope, query: MemoryQuery) -> Sequence[Memory]:
        """One page of a list of those that live; without `payloads` these are empty, without `vectors` None."""

    async def links(self, scope: Scope, query: LinkQuery) -> Sequence[Link]:
        """One page of a memory's links with others that live. Raises NotFound (namespace, memory)."""

    async def stats(self, scope: Scope, wanted: MemoryFilter, now_us: int) -> Sequence[TypeStats]:
        """What there is of each type among those that live, by type. All of them are looked at. Raises NotFound (namespace)."""

    # ---- what comes to its end

    async def expired(self, now_us: int, limit: int) -> Sequence[tuple[Scope, str]]:
        """Keys of memories that have expired and are not deleted yet, those that expired first."""

    async def bury(self, before_us: int, limit: int) -> int:
        """Takes away tombstones from before a time, and those that hold nothing; returns how many.

        Those stay that some index may still have.
        """

    async def clear_dropped(self) -> int:
        """Takes away some of what is left of dropped namespaces; returns how much. Call it again until it returns 0."""
