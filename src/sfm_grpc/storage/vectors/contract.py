"""What every vector index promises. It is a projection: fed after the store, rebuilt from it, and asked only for candidates.

An index knows of a memory what search can go by, under the memory's revision: whoever asks it compares that with what the store
says. So it may be behind, or gone; it must not invent. Driver errors never leave an index's file or folder: what comes out is
IndexUnavailable, or a defect. One that cannot be read any more says so (IndexDamaged): it is discarded, and fed again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from sfm_grpc.errors import IndexUnavailable
from sfm_grpc.model import Buffer, Distance, MemoryFilter, Scope


class IndexDamaged(IndexUnavailable):
    """What it kept of a geometry cannot be read, and will not be: `discard` it and feed it again.

    To callers it is an IndexUnavailable.
    """

    geometry: tuple[int, Distance] | None = None
    """Which one that is, where it is known."""


@dataclass(frozen=True, slots=True)
class Field:
    """Where vectors may be near one another: those of a namespace, in one geometry (a dimension and a distance)."""

    scope: Scope
    number: int
    """Of the namespace's life: what is left of one that was dropped is not found in the one that has its name now."""
    dimension: int
    distance: Distance


class Point(Struct, frozen=True):
    """A memory with a vector, as an index has it."""

    key: str
    revision: int
    vector: Buffer
    """float32, little-endian."""
    memory_type: str
    importance: float
    coordinates: tuple[float, ...]
    create_time_us: int
    update_time_us: int
    expire_time_us: int
    """0: never."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A point that the index does not take, and will not take if it is sent again."""

    key: str
    revision: int
    reason: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A neighbour."""

    key: str
    revision: int
    """Of the memory when it was indexed."""
    score: float
    """What the geometry says: the cosine, the inner product, or the Euclidean distance."""


class VectorIndex(Protocol):
    """An index of all namespaces. All methods raise IndexUnavailable while it is away, and work again when it is back."""

    name: str
    """`qdrant-edge` or `qdrant`: what GetServerInfo says."""
    exclusive: bool
    """While it is open, no other process has it."""

    @property
    def identity(self) -> str:
        """Tells what is in it from every other index, and from itself before it was emptied; "" until it is open.

        Only `open`, `check` and `discard` change it. An index that is not this process's alone may be emptied at any time: until
        that is found out, nothing can be put where something is missing, or be searched there.
        """

    async def open(self) -> None:
        """Makes what is missing and lets go of nothing that is there. May be called again where it raised."""

    async def close(self) -> None:
        """Finishes what is under way and lets go. Idempotent."""

    async def check(self) -> str:
        """Asks it something that it can only answer when it can be searched. Returns what it is.

        One that was emptied meanwhile, or has lost a part, has another identity after this, and is to be fed again.
        """

    async def apply(self, field: Field, puts: Sequence[Point], gone: Collection[str]) -> Sequence[Refused]:
        """Makes the points of these keys what is given, and lets go of those that are `gone`; no key is in both, or twice.

        Durable when this returns, and searchable. Done again it changes nothing: a key has one point, whatever was sent before.
        Where it raises, some of it may have been done: send it again.
        """

    async def search(self, field: Field, vector: Buffer, chosen: MemoryFilter, *, now_us: int, limit: int) -> Sequence[Hit]:
        """The nearest points that the filter takes in and that have not expired by `now_us`, nearest first.

        The caller has seen to it that the vector is finite and of the field's dimension. Few of many are found by a graph, which
        may miss one. Times are compared as float64: exactly up to the year 2255.
        """

    async def count(self, field: Field) -> int:
        """How many points of the namespace there are, exactly; expired ones, too."""

    async def scan(self, field: Field, *, after: str, limit: int) -> tuple[Sequence[tuple[str, int]], str]:
        """Keys and revisions of the namespace's points, a stretch of them, and where to go on ("": it was the last).

        In an order of its own, from `after` on ("": from the first): every point that is there throughout comes once.
        """

    async def drop(self, field: Field) -> None:
        """Lets go of all points of the namespace."""

    async def discard(self, dimension: int, distance: Distance) -> None:
        """Lets go of all that is kept of a geometry, of all namespaces, readable or not.

        Then all of it is to be fed again, by another identity: what is kept of other geometries may be gone, too.
        """
