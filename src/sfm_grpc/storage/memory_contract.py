"""What every engine promises of memories, besides `storage.contract.Store.commit`, which writes them.

`storage.memories.decide` says what a transaction makes of them; tests/contract is the same as this page in code.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from sfm_grpc.model import Distance, Memory, MemoryQuery, Scope, Space


@dataclass(frozen=True, slots=True)
class Behind:
    """A namespace, and how far an index is behind it."""

    scope: Scope
    space: Space
    indexed: int
    """The index has all revisions up to this one."""


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

    # ---- what comes to its end

    async def expired(self, now_us: int, limit: int) -> Sequence[tuple[Scope, str]]:
        """Keys of memories that have expired and are not deleted yet, those that expired first."""

    async def bury(self, before_us: int, index: str, limit: int) -> int:
        """Takes away tombstones from before a time, and those that hold nothing; returns how many.

        Those stay of which the index may still have a point.
        """

    # ---- the index behind

    async def behind(self, index: str, limit: int) -> Sequence[Behind]:
        """Namespaces with vectors that were written to after what this index has of them."""

    async def indexed(self, scope: Scope, index: str) -> int:
        """The index has all revisions of the namespace up to this one; 0: none."""

    async def take_index(self, scope: Scope, index: str, owner: str, *, lasts_s: float) -> Behind | None:
        """The turn to feed a namespace to an index, for so long; None: another owner has it, or there is no such namespace.

        While it lasts nobody else has it. From the first turn on nothing is buried that the index may have.
        """

    async def changed(self, scope: Scope, *, after: int, limit: int) -> Sequence[Memory]:
        """What was written after a revision, oldest first, as it is now: without payloads, with vectors, deleted ones too."""

    async def advance_index(self, scope: Scope, index: str, owner: str, revision: int, *, lasts_s: float) -> bool:
        """The index has all revisions up to this one, and the turn lasts longer; False: it is no longer the owner's."""

    async def release_index(self, scope: Scope, index: str, owner: str) -> None:
        """The turn is over."""

    async def forget_index(self, scope: Scope, index: str) -> None:
        """The index has nothing of the namespace any more: it is fed from the beginning."""
