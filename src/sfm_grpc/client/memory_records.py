"""Memories as the client takes and answers them: frozen records, vectors that cannot be written to, aware datetimes in UTC."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias, TypedDict

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import force_setattr

from sfm_grpc.client.records import Array, moment

Time: TypeAlias = datetime | int
"""An aware datetime, or microseconds since the Unix epoch."""
NumberRange: TypeAlias = tuple[float | None, float | None]
"""Low and high, both in it; None: no end."""
TimeRange: TypeAlias = tuple[Time | None, Time | None]
OutcomeName: TypeAlias = Literal["created", "updated", "deleted", "undeleted", "purged", "unchanged", "unknown"]
OrderName: TypeAlias = Literal["key", "create_time", "update_time", "importance"]

_parsed = msgspec.json.Decoder().decode
_LAST_MOMENT = datetime.max.replace(tzinfo=UTC)


class Keep(enum.Enum):
    """The type of `KEEP`."""

    KEEP = "keep"

    def __repr__(self) -> str:
        return self.name


KEEP: Final = Keep.KEEP
"""What a partial put leaves as it is. None is no such word: it takes a part away."""


# ---- what is put -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RawJson:
    """JSON text that is kept as it is, byte for byte: `RawJson('{"n": 1.10}')`. Every other payload is made JSON first."""

    text: str


class _Put(Struct, frozen=True, eq=False):
    key: str
    """1 to 256 bytes of UTF-8 without control characters."""
    payload: object
    """What the module `json` can write (no NaN, no infinity), UUIDs and enums (their text and value), or RawJson."""


class MemoryPut(_Put, frozen=True, eq=False, kw_only=True):
    """A whole memory to put: what is not said here, it does not have afterwards."""

    memory_type: str = ""
    importance: float = 0.0
    coordinates: Iterable[float] | None = ()
    """At most 8, finite."""
    vector: npt.ArrayLike | None = None
    """(d,) real numbers, which become float32; d is the namespace's dimension."""
    ttl_s: float | None = None
    """Seconds from now after which it is absent; this or `expire_time`."""
    expire_time: Time | None = None
    create_only: bool = False
    """Only if the key is absent."""
    if_revision: int | None = None
    """Only if the key exists and has this revision."""

    def __post_init__(self) -> None:
        # What can be iterated once only would not be there any more when the same put is sent again.
        if type(self.coordinates) is not tuple:
            force_setattr(self, "coordinates", () if self.coordinates is None else tuple(self.coordinates))


class _Update(Struct, frozen=True, eq=False):
    key: str


class MemoryUpdate(_Update, frozen=True, eq=False, kw_only=True):
    """Some parts of a memory that exists; the rest stays as it is. None takes vector, coordinates or expiry away."""

    payload: object = KEEP
    """As in MemoryPut; None is JSON's null."""
    memory_type: str | Keep = KEEP
    importance: float | Keep = KEEP
    coordinates: Iterable[float] | Keep | None = KEEP
    vector: npt.ArrayLike | Keep | None = KEEP
    ttl_s: float | Keep | None = KEEP
    expire_time: Time | Keep | None = KEEP
    if_revision: int | None = None
    """Only if it has this revision."""

    def __post_init__(self) -> None:
        if not isinstance(self.coordinates, Keep):
            force_setattr(self, "coordinates", () if self.coordinates is None else tuple(self.coordinates))


@dataclass(frozen=True, slots=True)
class MemoryDelete:
    """A memory that a commit deletes together with what it does to matrices; nothing happens where it is absent."""

    key: str


class WriteOptions(TypedDict, total=False):
    """What every write takes, with its defaults."""

    request_id: str | None
    """At most 64 bytes; None: a new one."""
    validate_only: bool
    """Every check runs and nothing is recorded."""
    timeout_s: float | None


class PutOptions(WriteOptions, total=False):
    """What every put takes, with its defaults."""

    wait_indexed_s: float | None
    """Wait at most so long until a search can find it; the receipt's `indexed` says whether it can. None: do not wait."""


class FilterOptions(TypedDict, total=False):
    """Which memories `list`, `page`, `search`, `stats` and `export_lines` take in: each part that is set leaves fewer."""

    key_prefix: str
    memory_types: str | Iterable[str]
    importance: NumberRange
    create_time: TimeRange
    update_time: TimeRange
    box: Sequence[NumberRange]
    """A range for each coordinate; memories with another number of coordinates are outside."""


class ListOptions(FilterOptions, total=False):
    """What `list` and `page` take."""

    order: OrderName
    descending: bool
    page_size: int
    """0: the server's."""
    payloads: bool
    """False: keys and facts only."""
    with_vectors: bool


# ---- what is answered ------------------------------------------------------------------------------------------------


class MemoryRecord(Struct, frozen=True, eq=False, dict=True):
    """One memory as it is kept."""

    key: str
    revision: int
    """Which put, deletion or undeletion made it so; it rises with every write to the namespace."""
    payload_json: str
    """The text that was put, byte for byte; "" where it was not asked for."""
    payload_digest: bytes
    """SHA-256 of the text."""
    memory_type: str
    importance: float
    coordinates: tuple[float, ...]
    vector: Array | None
    """(d,) float32, read-only; None: it has none, or it was not asked for."""
    expire_time_us: int
    """Microseconds since the Unix epoch; 0: never."""
    create_time: datetime
    update_time: datetime

    @cached_property
    def payload(self) -> Any:
        """The payload as Python has it, parsed when it is first asked for. Raises LookupError where it was not asked for."""
        if not self.payload_json:
            raise LookupError(f"{self.key!r} was listed without its payload: get() brings it")
        return _parsed(self.payload_json)

    @property
    def expire_time(self) -> datetime | None:
        """From when on it is absent; None: never. The last moment of the year 9999 stands for every later one."""
        if not self.expire_time_us:
            return None
        try:
            return moment(self.expire_time_us)
        except OverflowError:
            return _LAST_MOMENT


@dataclass(frozen=True, slots=True, eq=False)
class FoundMemories:
    """What `get_many` found, as of one moment. `found["key"]` is a memory."""

    found: Mapping[str, MemoryRecord]
    """By key, in the order that was asked."""
    missing: tuple[str, ...]
    with_vectors: bool

    def __getitem__(self, key: str) -> MemoryRecord:
        return self.found[key]

    def __contains__(self, key: object) -> bool:
        return key in self.found

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    @property
    def vector_keys(self) -> tuple[str, ...]:
        """The keys that have a vector: the rows of `vectors()`. Raises LookupError where vectors were not asked for."""
        if not self.with_vectors:
            raise LookupError("vectors were not asked for: get_many(keys, with_vectors=True)")
        return tuple(key for key, memory in self.found.items() if memory.vector is not None)

    def vectors(self, keys: Sequence[str] | None = None) -> Array:
        """(n, d) float32, read-only: a row for each of `keys`, in their order; None: `vector_keys`. (0, 0) for no keys.

        Raises KeyError for a key that was not found, LookupError for one without a vector.
        """
        rows = [self._row(key) for key in (self.vector_keys if keys is None else keys)]
        stacked = np.stack(rows) if rows else np.empty((0, 0), "<f4")
        stacked.flags.writeable = False
        return stacked

    def _row(self, key: str) -> Array:
        vector = self.found[key].vector
        if vector is None:
            raise LookupError(
                f"{key!r} has no vector" + ("" if self.with_vectors else " here: get_many(keys, with_vectors=True)")
            )
        return vector


@dataclass(frozen=True, slots=True, eq=False)
class MemoryPage:
    """One page of a list."""

    memories: tuple[MemoryRecord, ...]
    next_page_token: str
    """Empty on the last page."""


@dataclass(frozen=True, slots=True, eq=False)
class Neighbour:
    """A memory that a search found."""

    memory: MemoryRecord
    """As it is now."""
    score: float
    """What the namespace's distance says: the cosine, the inner product (larger is nearer), or the length of the difference."""


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """What `search` found: `for neighbour in result`, nearest first."""

    neighbours: tuple[Neighbour, ...]
    """None that is deleted, has expired, or was written since it was indexed."""
    indexed_revision: int
    """The index had every write up to this one..."""
    newest_revision: int
    """...and the namespace was at this one."""

    def __iter__(self) -> Iterator[Neighbour]:
        return iter(self.neighbours)

    def __len__(self) -> int:
        return len(self.neighbours)

    def __getitem__(self, place: int) -> Neighbour:
        return self.neighbours[place]


@dataclass(frozen=True, slots=True)
class MemoryTypeStats:
    """What there is of one type of memories."""

    memory_type: str
    memories: int
    vectors: int
    """How many of these have a vector."""
    payload_bytes: int
    expiring: int
    """How many of these will expire some day."""
    importance_min: float
    importance_mean: float
    importance_max: float
    oldest_time: datetime
    """When the oldest was created."""
    newest_time: datetime
    """When one was written last."""


class MemoryReceipt(Struct, frozen=True):
    """What became of one change; of a validation, what would have."""

    key: str
    outcome: OutcomeName
    """`unchanged`: there was nothing to do, it was absent already, or lives."""
    revision: int
    """The memory's now; 0 of one that was absent and is."""
    payload_digest: bytes
    """SHA-256 of its payload; empty of one that is absent."""
    create_time: datetime | None
    update_time: datetime | None
    """None, both, of one that was absent and is."""
    replayed: bool
    """The request id had been used with the same content: this is the first answer again."""
    request_id: str
    indexed: bool = False
    """Where a put waited for it (`wait_indexed_s`): a search can find it."""
