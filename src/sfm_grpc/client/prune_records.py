"""Prunes: what is said, and what is answered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from sfm_grpc.client.commits import Kinds, MaxStep
from sfm_grpc.client.memory_records import WriteOptions
from sfm_grpc.client.records import Changes, Receipt, Snapshot
from sfm_grpc.model import Metadata

SourceName: TypeAlias = Literal["call", "message", "limit", "unknown"]
PlanStateName: TypeAlias = Literal["waiting", "applied", "expired", "unknown"]
PolicyName: TypeAlias = Literal["refuse", "prune", "unknown"]


@dataclass(frozen=True, slots=True)
class PruneGuard:
    """One guard, and what it says of a prune."""

    name: str
    """`prune_keys_max`, `prune_percent_max` or `prune_remaining_min`."""
    value: float
    """What the prune would be: keys, the percent of the memories that go, or how many would remain."""
    bound: float
    """What the guard lets pass."""
    tripped: bool
    """It does not let this pass without a confirmation."""


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What a prune would do."""

    plan_id: str
    namespace: str
    source: SourceName
    """Where it came from: a call, a message of the topic `prune.order`, or the namespace's memory limit."""
    committer: str
    """Who asked for it."""
    order_id: str
    """The order's, of one that came as a message."""
    state: PlanStateName
    create_time: datetime
    expire_time: datetime
    """From when on it cannot be applied any more."""
    memories: int
    """How many would go."""
    payload_bytes: int
    """Of these."""
    memories_before: int
    """How many there were."""
    unknown: int
    """How many keys of the order are not there."""
    unknown_keys: tuple[str, ...]
    """The first of those, at most 100."""
    duplicates: int
    """How many keys the order says more than once."""
    sample_keys: tuple[str, ...]
    """The first that would go, at most 100."""
    digest: bytes
    """SHA-256 of keys and revisions."""
    guards: tuple[PruneGuard, ...] = ()
    """What the guards say; of a list nothing."""
    confirm_token: str = field(default="", repr=False)
    """Confirms it, for this caller, once; empty where no guard trips, where the plan does not wait, and of a list."""

    @property
    def needs_confirmation(self) -> bool:
        """A guard trips. Of a plan from a list nothing is known of that: `get_plan` asks."""
        return any(guard.tripped for guard in self.guards)


@dataclass(frozen=True, slots=True)
class PrunePlanPage:
    """One page of plans."""

    plans: tuple[PrunePlan, ...]
    """The newest first."""
    next_page_token: str
    """Empty on the last page."""


@dataclass(frozen=True, slots=True)
class PruneAudit:
    """What was done, as it is kept for ever."""

    number: int
    """Of the namespace, from 1, without a gap."""
    record: str
    """The JSON text that is kept. The hash is of these bytes; what follows here is read from them."""
    hash: bytes
    """SHA-256 of the hash before it (of the first: 32 zero bytes) and the record."""
    action: str
    """`apply` or `undo`."""
    time: datetime
    committer: str
    source: SourceName
    plan_id: str
    """Empty where there was no plan."""
    order_id: str
    """The order's, of one that came as a message."""
    memories: int
    """How many went, or are there again."""
    skipped: int
    """How many keys were not there; of an undo: were written since, expired, or are gone for good."""
    undo_of: int
    """Of an undo: the number of the prune."""
    version: int
    """Of the matrices that were committed with it; 0: none were."""


@dataclass(frozen=True, slots=True)
class PruneReceipt:
    """What became of a prune; of a validation, what would have."""

    audit: PruneAudit
    unknown_keys: tuple[str, ...]
    """Keys that were not there, at most 100."""
    undo_until: datetime | None
    """Until when it can be undone, where it was answered."""
    replayed: bool
    """The request id had been used with the same content: this is the first answer again."""
    request_id: str
    receipts: Mapping[str, Receipt]
    """Of the matrices that were committed with it, by key: digest, certificate, and whether it was clamped."""

    @property
    def version(self) -> int:
        """Of the matrices that were committed with it; 0: none were."""
        return self.audit.version


@dataclass(frozen=True, slots=True)
class UndoReceipt:
    """What became of an undo; of a validation, what would have."""

    audit: PruneAudit
    skipped_keys: tuple[str, ...]
    """Keys that are not as the prune left them, at most 100: they were left alone."""
    replayed: bool
    """The request id had been used with the same content: this is the first answer again."""
    request_id: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What a verification of the chain of audits found."""

    audits: int
    """So many follow one another as they should, from the first on."""
    last_hash: bytes
    """Of the last of these; 32 zero bytes where there is none."""
    wrong_number: int
    """The number at which the chain breaks; 0: it does not."""
    problem: str
    """What is wrong with it."""

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return not self.wrong_number


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """How many memories a namespace may have."""

    memories_max: int
    """0: any number."""
    policy: PolicyName
    """Of those beyond. `refuse`: they are not put. `prune`: the fallback prunes a little later, within the guards."""
    memories: int
    """How many there are."""


class ApplyOptions(WriteOptions, total=False):
    """What `apply` takes."""

    plan: PrunePlan | None
    plan_id: str
    keys: str | Iterable[str] | None
    """Just one of these three."""
    confirm_token: str
    """The plan's; it is never taken from `plan` without being said."""
    rho: Changes | None
    """Matrices that are committed in the same transaction, as `Namespace.commit` takes them."""
    expected_version: int | Snapshot | None
    """With `rho`, as of `Namespace.commit`, and so are the next three."""
    metadata: Metadata | None
    max_step: MaxStep
    kinds: Kinds
