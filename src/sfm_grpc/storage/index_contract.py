"""What every engine knows of vector indexes: how far each has been fed with each namespace, and what it should have.

An index is told from others by its identity. Nothing is queued: an index has all revisions of a namespace up to one, and what was
written after that is asked of the memories as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from sfm_grpc.model import Distance, Memory, Scope, Space


@dataclass(frozen=True, slots=True)
class Progress:
    """A namespace, and how far an index is with it."""

    scope: Scope
    space: Space
    indexed: int
    """The index has all revisions up to this one; 0: none."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A memory whose vector an index does not take, as it is at this revision."""

    key: str
    revision: int
    reason: str
    time_us: int
    """When it was refused."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A namespace that is no more, of which an index may have points."""

    scope: Scope
    number: int
    dimension: int
    distance: Distance


class IndexTables(Protocol):
    """Each question is one consistent look. All raise StoreUnavailable and Overloaded as `Store` says."""

    async def keep(self, index: str, *, lost_after_s: float) -> None:
        """The index is there. How far those are of which that was not said for so long is forgotten.

        One that comes back all the same is fed from the beginning.
        """

    async def behind(self, index: str, limit: int) -> Sequence[Progress]:
        """Namespaces with vectors that were written to after what this index has of them."""

    async def progress(self, scope: Scope, index: str) -> Progress | None:
        """How far it is with a namespace; None: there is none of this name."""

    async def take(self, number: int, index: str, owner: str, *, lasts_s: float) -> int | None:
        """The turn to change what the index has of a namespace (by its number), for so long; up to which revision it has it.

        None: another owner has the turn, or there is no such namespace. From the first turn on, nothing of the namespace is
        buried that the index may still have.
        """

    async def advance(self, number: int, index: str, owner: str, revision: int, *, lasts_s: float) -> bool:
        """The index has all revisions up to this one, and the turn lasts longer; False: it is no longer the owner's."""

    async def release(self, number: int, index: str, owner: str) -> None:
        """The turn is over."""

    async def end_turns(self, index: str) -> None:
        """All turns of this index are over: the process that had them is no more."""

    async def forget(self, number: int, index: str) -> None:
        """The index has nothing of the namespace any more, and nobody has the turn: it is fed from the beginning."""

    async def changed(self, number: int, *, after: int, limit: int) -> Sequence[Memory]:
        """What was written after a revision, oldest first, as it is now: without payloads, with vectors, deleted ones too."""

    async def get(self, number: int, keys: Collection[str]) -> Sequence[Memory]:
        """What there is of these keys, as `changed` tells it."""

    async def pointed(self, number: int, *, after: str, limit: int) -> Sequence[tuple[str, int]]:
        """Keys and revisions of what an index should have, by key, after one. What has expired is there until it is purged."""

    async def refuse(self, number: int, index: str, letters: Sequence[DeadLetter]) -> None:
        """Keeps that the index does not take these."""

    async def refused(self, number: int, index: str, limit: int) -> Sequence[DeadLetter]:
        """Those of them that were not written since, by key."""

    async def dropped(self, index: str, limit: int) -> Sequence[Dropped]:
        """Dropped namespaces of which this index may have points."""

    async def forget_dropped(self, number: int, index: str) -> None:
        """It has none of them any more."""
