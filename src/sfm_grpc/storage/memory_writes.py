"""What is known of memories before a write, and what a write does: the words between `storage.memories` and an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec import Struct

from sfm_grpc.model import LinkName, MemoryReceipt, PutMemory, Space


class Known(Struct, frozen=True):
    """What is kept of a key, without its contents."""

    revision: int
    digest: bytes
    """Of the payload; b"": its contents are gone."""
    payload_bytes: int
    has_vector: bool
    expire_time_us: int
    create_time_us: int
    update_time_us: int
    delete_time_us: int

    def is_living(self, now_us: int) -> bool:
        """Neither deleted nor expired."""
        return not self.delete_time_us and not 0 < self.expire_time_us <= now_us


@dataclass(frozen=True, slots=True)
class Held:
    """What a namespace holds of what a transaction is about."""

    known: Mapping[str, Known]
    """By key: those that there is a row of."""
    links: Mapping[LinkName, int] = field(default_factory=dict)
    """Of those links that are there: when they were made."""
    expired: int = 0
    """How many memories of the namespace have expired, and are counted still; 0 where no limit is near."""


class WritePut(Struct, frozen=True):
    """The row of the key gets these parts; the rest of a row that is new, or begins anew, is empty."""

    put: PutMemory
    revision: int
    create_time_us: int
    anew: bool
    """There was a row, of a memory that is no more: its links go."""


@dataclass(frozen=True, slots=True)
class WriteMark:
    """The row of the key is deleted at this time; 0: it is not any more."""

    key: str
    revision: int
    delete_time_us: int


@dataclass(frozen=True, slots=True)
class WriteErase:
    """The row of the key is deleted at this time, and holds nothing any more; its links go."""

    key: str
    revision: int
    delete_time_us: int


@dataclass(frozen=True, slots=True)
class WriteLink:
    """The link is there, with this weight."""

    name: LinkName
    weight: float
    create_time_us: int


@dataclass(frozen=True, slots=True)
class WriteUnlink:
    """The link is gone."""

    name: LinkName


@dataclass(frozen=True, slots=True)
class WriteDrop:
    """The namespace's row gets another number, under which nothing is; what was under the old one is to be taken away."""


Write: TypeAlias = WritePut | WriteMark | WriteErase | WriteLink | WriteUnlink | WriteDrop


@dataclass(frozen=True, slots=True)
class Decided:
    """What is to be written, and what is told of it."""

    space: Space
    """The namespace afterwards."""
    time_us: int
    """When: the update time of all that is written."""
    writes: tuple[Write, ...]
    receipts: tuple[MemoryReceipt, ...]
