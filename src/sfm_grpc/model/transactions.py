"""What is written, and what comes of it."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sfm_grpc.model.basics import NO_METADATA, Metadata, Scope
from sfm_grpc.model.matrices import MatrixChange, Version
from sfm_grpc.model.memories import DeleteLink, LinkName, MemoryChange, MemoryReceipt, PutLink
from sfm_grpc.model.prunes import Prune, PruneAudit


@dataclass(frozen=True, slots=True)
class RequestIdentity:
    """What makes a mutation the same one when it arrives again."""

    method: str
    request_id: str
    content_digest: bytes
    """SHA-256 over all that was asked for, as it was asked (before any clamp)."""


@dataclass(frozen=True, slots=True)
class Event:
    """What the rest of the world is told of a commit."""

    topic: str
    payload: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Transaction:
    """One mutation: all of it happens, or nothing does. There is no write without its event: both are parameters."""

    scope: Scope
    changes: tuple[MatrixChange, ...]
    """Together they make one version; none: no version is made."""
    expected_version: int | None
    """None: the last writer wins (inside the process only; the wire requires a version)."""
    request: RequestIdentity | None
    """None: not remembered."""
    committer: str
    time_us: int
    """When it was admitted; the commit time is this, or the version's before it where that is later."""
    receipt: bytes
    """What the first answer says beyond version and time, kept for replays."""
    event_of: Callable[[Version], Event] | None
    """What the world is told of the version that is made; None only where none is."""
    memories: MemoryWrites | None = None
    deadline: float = math.inf
    """On time.monotonic(): a transaction that has not begun by then is not begun."""
    metadata: Metadata = field(default_factory=lambda: NO_METADATA)
    validate_only: bool = False
    prune: Prune | None = None
    """It deletes memories by order, or undoes that: it has a plan to look at, guards, and an audit."""
    audited_as: Callable[[PruneAudit], Event] | None = None
    """What the world is told of a prune; None only of what is none."""

    @classmethod
    def of_memories(
        cls,
        scope: Scope,
        memories: MemoryWrites,
        time_us: int,
        *,
        request: RequestIdentity | None = None,
        committer: str = "",
        deadline: float = math.inf,
        validate_only: bool = False,
        prune: Prune | None = None,
        audited_as: Callable[[PruneAudit], Event] | None = None,
    ) -> Transaction:
        """One that makes no version."""
        return cls(
            scope=scope,
            changes=(),
            expected_version=None,
            request=request,
            committer=committer,
            time_us=time_us,
            receipt=b"",
            event_of=None,
            memories=memories,
            deadline=deadline,
            validate_only=validate_only,
            prune=prune,
            audited_as=audited_as,
        )

    @property
    def is_about_matrices(self) -> bool:
        """Whether the namespace's version matters to it: without any change, it asks where that is."""
        return bool(self.changes) or self.memories is None


@dataclass(frozen=True, slots=True)
class MemoryWrites:
    """The part of a mutation that is about memories, each key once."""

    changes: tuple[MemoryChange, ...]
    event_of: Callable[[Sequence[MemoryReceipt]], Event]
    """What the world is told of them."""

    @property
    def keys(self) -> Sequence[str]:
        """Of all memories that they are about, each once."""
        ends = [key for name in self.links for key in (name[0], name[2])]
        return list(dict.fromkeys([*(c.key for c in self.changes if c.key), *ends]))

    @property
    def links(self) -> Sequence[LinkName]:
        """Of all links that they are about."""
        return [c.name for c in self.changes if isinstance(c, PutLink | DeleteLink)]


class CacheState(enum.IntEnum):
    """Whether a cache may serve a namespace; the values are in the database."""

    DRAINED = 0
    """No lease of it stands anywhere: what is committed may be told at once."""
    ON = 1
    """The registered cache may be filled: what is committed is fenced there before it is told."""
    OFF = 2
    """It may not be filled any more, and its last leases are running out."""


@dataclass(frozen=True, slots=True)
class CacheSeen:
    """What a head's row said of its cache, in the same look as its version."""

    version: int
    """The newest version at that look."""
    state: CacheState
    name: str
    """The registered cache: the one that may be filled while the state is ON."""
    epoch: int
    """Rises each time it is turned on."""
    held: bool
    """A person turned it off: only a person turns it on again."""


@dataclass(frozen=True, slots=True)
class CommitResult:
    """What a transaction did, or would have done."""

    version: Version | None
    """The version that was made, with its entries; None of a replay, which may be of one no longer kept, and of a validation."""
    number: int
    """Its number, or what it would have been; 0: none is made."""
    commit_time_us: int
    receipt: bytes
    """The transaction's own, or of a replay the first one's."""
    replayed: bool
    seen: CacheSeen | None = None
    """What the head's row said of its cache when this transaction locked it, or looked; None where no cache can stand between."""
    memories: tuple[MemoryReceipt, ...] = ()
    """What became of each change of a memory, in their order; of a replay, the first time (of a prune's, nothing)."""
    audit: PruneAudit | None = None
    """Of a prune: what is kept of it, or would be; None of a replay."""
    audit_number: int = 0
    """Its number, also of a replay; 0: it was no prune."""
