"""What is asked of a prune, and what is kept of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sfm_grpc.model.basics import Scope


class PruneSource(enum.IntEnum):
    """Where an order came from; the values are `sfm.v1.PruneSource`'s."""

    CALL = 1
    MESSAGE = 2
    LIMIT = 3


class PruneAction(enum.Enum):
    """What was done."""

    APPLY = "apply"
    UNDO = "undo"


class PlanState(enum.IntEnum):
    """What became of a plan; the values are `sfm.v1.PrunePlanState`'s. One that waits is EXPIRED once its time is over."""

    WAITING = 1
    APPLIED = 2
    EXPIRED = 3


class LimitPolicy(enum.IntEnum):
    """What becomes of memories beyond a namespace's limit; the values are `sfm.v1.MemoryLimitPolicy`'s."""

    REFUSE = 1
    PRUNE = 2


@dataclass(frozen=True, slots=True)
class PruneGuards:
    """What a prune may be without a confirmation."""

    keys_max: int
    percent_max: int
    """Of the memories that there are."""
    remaining_min: int
    """So many stay."""


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """One guard, and what it says."""

    name: str
    value: float
    bound: float
    tripped: bool


@dataclass(frozen=True, slots=True)
class PruneItem:
    """A memory of a plan, or of a prune that can be undone."""

    key: str
    revision: int
    """Of a plan: what it was at. Of a prune: that of its deletion."""


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What a prune would do."""

    plan_id: str
    scope: Scope
    source: PruneSource
    committer: str
    order_id: str
    state: PlanState
    create_time_us: int
    expire_time_us: int
    memories: int
    """How many would go."""
    payload_bytes: int
    memories_before: int
    unknown: int
    unknown_keys: tuple[str, ...]
    """The first of them."""
    duplicates: int
    sample_keys: tuple[str, ...]
    digest: bytes
    """SHA-256 of the items."""
    order_digest: bytes
    """SHA-256 of what was asked for: what the same request id must say again."""
    secret: bytes
    """What its tokens are made of."""
    keep: int = 0
    """Of a fallback: so many are to stay."""
    apply_time_us: int = 0
    """When it was applied; 0: it was not."""
    items: tuple[PruneItem, ...] = ()
    """The first to go first; none where they were not asked for."""

    def state_at(self, now_us: int) -> PlanState:
        """What has become of it by then: one that waits expires."""
        is_over = self.state is PlanState.WAITING and self.expire_time_us <= now_us
        return PlanState.EXPIRED if is_over else self.state


@dataclass(frozen=True, slots=True)
class Prune:
    """The part of a transaction that makes it a prune, or the undoing of one: what is checked and kept besides its changes."""

    action: PruneAction
    source: PruneSource
    guards: PruneGuards | None
    """None: an undoing, which needs none."""
    confirmed: frozenset[str]
    """The guards that may trip, by name."""
    order_digest: bytes
    """SHA-256 of the keys that were asked for, in their order."""
    undelete_s: int
    """How long it can be undone."""
    plan_id: str = ""
    order_id: str = ""
    expected: Mapping[str, int] = field(default_factory=dict)
    """Each memory's revision, where they were chosen before: of a plan, of what is over a limit."""
    keep: int = 0
    """Of a fallback: so many stay, whatever was chosen before."""
    unknown_keys: tuple[str, ...] = ()
    """Of a plan: keys that were not there when it was made, the first of them."""
    unknown: int = 0
    """How many."""
    undo_of: int = 0
    """Which prune is undone."""


@dataclass(frozen=True, slots=True)
class PruneAudit:
    """What is kept of what was done, for ever."""

    number: int
    """Of the namespace, from 1, without a gap."""
    time_us: int
    record: str
    """JSON: what was done. The hash is of these bytes."""
    hash: bytes
    """SHA-256 of the hash before it and the record."""


@dataclass(frozen=True, slots=True)
class Undoable:
    """A prune that can be undone, as long as its window is open."""

    number: int
    until_us: int
    undone_by: int
    """The audit's number; 0: it was not."""
    items: Sequence[PruneItem]


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """How many memories a namespace may have."""

    memories_max: int
    """0: any number."""
    policy: LimitPolicy
