"""A memory as a Qdrant point, in words that belong to neither of its libraries: both indexes keep and ask for the same.

All tenants and namespaces of a geometry lie together, so `scope` is in every condition list and in every point's id.
"""

from __future__ import annotations

import enum
import hashlib
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import structs

from sfm_grpc.model import COORDINATES_MAX, Between, Buffer, Distance, MemoryFilter
from sfm_grpc.storage.vectors.contract import Field, Point, Refused

Payload: TypeAlias = dict[str, str | int | float]

FORMAT = 2
"""Of what follows: an index of another format is made anew."""

M, EF_CONSTRUCT = 16, 64
"""HNSW, as Qdrant's guide for many tenants has it: no graph over all, a graph of this degree for each large namespace."""
FULL_SCAN_KB = 12_000
"""Where the filter leaves less than this, all of it is compared: exact, and as fast. At 384 numbers 8 000 points."""
QUANTILE = 0.99
"""Vectors are looked through as int8, which makes building and searching three times faster, and compared again as float32."""
OVERSAMPLING = 3.0
"""How many more are compared again than are asked for."""

_BEAM = 128
"""A filter that leaves a tenth needs it, and others take hardly longer than with a third."""
_NEVER_US = 2**63 - 1
"""What never expires expires then: one comparison finds the living."""
_SQUARE_MAX = 1e37
"""The longest vector, squared: whatever two are compared by is still a float32."""
_SQUARE_SHORT = 1e-3
"""Shorter than this we give a vector its unit length ourselves: Qdrant takes one that is shorter than 0.0003 as it is."""


class Kind(enum.Enum):
    """How a field of the payload is indexed."""

    TENANT = enum.auto()
    """Text whose values part the points."""
    TEXT = enum.auto()
    PREFIX = enum.auto()
    """Text that is also found by how it begins."""
    NUMBER = enum.auto()
    """Found by a range."""
    TIME = enum.auto()
    """Whole, found by a range."""
    COUNT = enum.auto()
    """Whole, found by its value."""


INDEXED: Mapping[str, Kind] = {
    "scope": Kind.TENANT,
    "key": Kind.PREFIX,
    "memory_type": Kind.TEXT,
    "importance": Kind.NUMBER,
    **{f"c{i}": Kind.NUMBER for i in range(COORDINATES_MAX)},
    "coordinates_count": Kind.COUNT,
    "create_time_us": Kind.TIME,
    "update_time_us": Kind.TIME,
    "expire_time_us": Kind.TIME,
}
"""Every field that a filter may name. `revision` is kept beside them and only told."""

TOLD = ("key", "revision")
"""What a hit is told by."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a field must be: one of these values, or text that begins so, or a number within these ends."""

    field: str
    any_of: Sequence[str | int] = ()
    prefix: str = ""
    above: float | None = None
    """Excluded; the other two ends are in."""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard a search looks where it goes by a graph."""

    beam: int
    """HNSW's ef."""
    wide: bool
    """ACORN: goes on through points that the filter leaves out. Without it, one that leaves a third finds 85 % of them."""


# ---- what is kept


def sift(field: Field, puts: Sequence[Point]) -> tuple[list[Point], list[Refused]]:
    """Those that can be indexed, and those that never can, with the reason."""
    taken, refused = [], []
    squares = iter(_squares(field.dimension, puts))
    for put in puts:
        square = next(squares) if len(put.vector) == 4 * field.dimension else None
        if reason := _why_not(field.dimension, put, square):
            refused.append(Refused(put.key, put.revision, reason))
        elif field.distance is Distance.COSINE and square is not None and square < _SQUARE_SHORT:
            taken.append(structs.replace(put, vector=_unit(put.vector)))
        else:
            taken.append(put)
    return taken, refused


def _squares(dimension: int, puts: Sequence[Point]) -> list[float]:
    """The squared length of each vector that has the dimension; NaN or infinite where one of its numbers is."""
    import numpy as np  # not above: the engine's process needs none of it, and numpy is half of what it takes to start one

    numbers = np.frombuffer(b"".join(put.vector for put in puts if len(put.vector) == 4 * dimension), "<f4").reshape(
        -1, dimension
    )
    with np.errstate(over="ignore", invalid="ignore"):
        squares: list[float] = np.einsum("ij,ij->i", numbers, numbers).tolist()
    return squares


def _why_not(dimension: int, put: Point, square: float | None) -> str:
    if square is None:
        return f"its vector has {len(put.vector) / 4:g} numbers, and those it would lie among have {dimension}"
    if not square <= _SQUARE_MAX:
        return "its vector has a number that is not finite, or is too long to be compared in float32"
    if not all(map(math.isfinite, (put.importance, *put.coordinates))):
        return "its importance or one of its coordinates is not finite"
    return ""


def sought(field: Field, vector: Buffer) -> Buffer:
    """What to search by. Whoever asks has seen to it that it can be searched by."""
    import numpy as np

    numbers = np.frombuffer(vector, "<f4").astype(np.float64)
    square = float(numbers @ numbers)
    assert numbers.size == field.dimension, "a vector of another dimension was sought"
    assert square <= _SQUARE_MAX, "a vector was sought that is not finite, or too long"
    return _unit(vector) if field.distance is Distance.COSINE and square < _SQUARE_SHORT else vector


def _unit(vector: Buffer) -> bytes:
    """The same direction, of length one; one of zeros stays so."""
    import numpy as np

    numbers = np.frombuffer(vector, "<f4").astype(np.float64)
    length = np.linalg.norm(numbers)
    return (numbers / length if length else numbers).astype("<f4").tobytes()


def payload(scope: str, put: Point) -> Payload:
    """What is kept beside the vector; `scope` is its namespace's `scope_name`."""
    made: Payload = {
        "scope": scope,
        "key": put.key,
        "revision": put.revision,
        "memory_type": put.memory_type,
        "importance": float(put.importance),
        "coordinates_count": len(put.coordinates),
        "create_time_us": put.create_time_us,
        "update_time_us": put.update_time_us,
        "expire_time_us": put.expire_time_us or _NEVER_US,
    }
    made.update((f"c{i}", float(coordinate)) for i, coordinate in enumerate(put.coordinates))
    return made


def scope_name(field: Field) -> str:
    """A tenant and a namespace in one of its lives as one text, which no others have."""
    return f"{field.number}:{len(field.scope.tenant)}:{field.scope.tenant}:{field.scope.namespace}"


class Identities:
    """The ids of a namespace's points: a UUID from SHA-256 for each key, so that a key has one point."""

    def __init__(self, field: Field) -> None:
        name = scope_name(field).encode()
        self._begun = hashlib.sha256(len(name).to_bytes(4, "little") + name)

    def of(self, key: str) -> str:
        """The key's."""
        digest = self._begun.copy()
        digest.update(key.encode())
        return str(uuid.UUID(bytes=digest.digest()[:16]))


# ---- what is asked


def living(scope: str, chosen: MemoryFilter, now_us: int) -> list[Condition]:
    """What a point must fulfil to be found: all of these."""
    conditions = [Condition("scope", any_of=(scope,)), Condition("expire_time_us", above=now_us)]
    if chosen.key_prefix:
        conditions.append(Condition("key", prefix=chosen.key_prefix))
    if chosen.memory_types:
        conditions.append(Condition("memory_type", any_of=chosen.memory_types))
    if chosen.box:
        conditions.append(Condition("coordinates_count", any_of=(len(chosen.box),)))
    ranges = {f: getattr(chosen, f) for f in ("importance", "create_time_us", "update_time_us")}
    ranges |= {f"c{i}": between for i, between in enumerate(chosen.box[:COORDINATES_MAX])}
    conditions += [Condition(f, low=b.low, high=b.high) for f, b in ranges.items() if b != Between()]
    return conditions


def effort(chosen: MemoryFilter, limit: int) -> Effort:
    """As much as finds 99 of 100 of the nearest, measured on vectors like those of texts."""
    return Effort(max(_BEAM, 2 * limit), wide=chosen != MemoryFilter())
