"""What makes a transaction a prune, or the undoing of one: the checks and what is kept, the same in every engine.

Nothing here reads or writes. The namespace's row is locked, so plans, audits and memories stand still while this is asked.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from sfm_grpc.errors import NotFound, PruneConfirmationRequired, PruneNotUndoable, PrunePlanSpent, PrunePlanStale
from sfm_grpc.model import (
    GuardVerdict,
    Outcome,
    PlanState,
    Prune,
    PruneAction,
    PruneAudit,
    PruneGuards,
    PruneItem,
    Space,
    Transaction,
    Undoable,
)
from sfm_grpc.storage import codec
from sfm_grpc.storage.memory_writes import Decided, Held

FIRST_HASH = bytes(32)
"""What stands before the first audit."""
NAMES_KEPT = 100
"""So many keys of those that were not there, or not as they were left, are kept with an audit."""


@dataclass(frozen=True, slots=True)
class PlanRow:
    """Where a plan is."""

    state: PlanState
    expire_time_us: int
    apply_time_us: int


@dataclass(frozen=True, slots=True)
class LookedPrune:
    """What an engine found of a prune."""

    plan: PlanRow | None
    undoable: Undoable | None
    """Without its items."""
    last_number: int
    last_hash: bytes
    expired: int
    """How many memories of the namespace have expired, and are counted still."""

    @property
    def number(self) -> int:
        """Of the audit that is to be."""
        return self.last_number + 1


@dataclass(frozen=True, slots=True)
class WritePrune:
    """What is kept of a prune."""

    audit: PruneAudit
    undo: Undoable | None
    """How it can be undone; None: it undoes another one."""


GUARDS = ("prune_keys_max", "prune_percent_max", "prune_remaining_min")
"""Their names, as GetServerInfo has them."""


def verdicts(guards: PruneGuards, memories: int, memories_before: int) -> Sequence[GuardVerdict]:
    """What the guards say of a prune of so many memories out of so many."""
    percent = 100.0 * memories / memories_before if memories_before else 0.0
    remaining = memories_before - memories
    return (
        GuardVerdict(GUARDS[0], memories, guards.keys_max, memories > guards.keys_max),
        GuardVerdict(GUARDS[1], percent, guards.percent_max, percent > guards.percent_max),
        GuardVerdict(GUARDS[2], remaining, guards.remaining_min, memories > 0 and remaining < guards.remaining_min),
    )


def tripped(found: Sequence[GuardVerdict]) -> frozenset[str]:
    """The names of those that trip."""
    return frozenset(v.name for v in found if v.tripped)


@dataclass(frozen=True, slots=True)
class Pruning:
    """A prune that can be done, in a transaction that is under way."""

    transaction: Transaction
    prune: Prune
    looked: LookedPrune
    before: Space

    def made(self, decided: Decided, version: int) -> WritePrune:
        """What is kept of it, once it is known what becomes of the memories, and of the matrices (0: nothing).

        Raises PruneConfirmationRequired, PrunePlanStale.
        """
        return _decide(self, decided, version)


def begin(t: Transaction, prune: Prune, looked: LookedPrune, *, space: Space | None, held: Held) -> Pruning:
    """A prune in the namespace whose row is `space`, if it can still be done.

    Raises NotFound (namespace, plan), PrunePlanSpent, PrunePlanStale, PruneNotUndoable.
    """
    namespace = t.scope.namespace
    if space is None or not space.exists:
        raise NotFound(what="namespace", namespace=namespace)
    if prune.plan_id:
        plan = looked.plan
        if plan is None:
            raise NotFound(what="prune plan", namespace=namespace, names=(prune.plan_id,))
        if plan.state is PlanState.APPLIED:
            raise PrunePlanSpent(namespace=namespace, plan_id=prune.plan_id, state="applied", time_us=plan.apply_time_us)
        if plan.expire_time_us <= t.time_us:
            raise PrunePlanSpent(namespace=namespace, plan_id=prune.plan_id, state="expired", time_us=plan.expire_time_us)
    if changed := _changed(prune.expected, held, t.time_us):
        shown = tuple(changed[:NAMES_KEPT])
        raise PrunePlanStale(namespace=namespace, plan_id=prune.plan_id, changed=len(changed), names=shown)
    if prune.undo_of:
        undone = looked.undoable
        if undone is None or undone.undone_by or undone.until_us <= t.time_us:
            raise PruneNotUndoable(namespace=namespace, number=prune.undo_of, undone_by=undone.undone_by if undone else 0)
    return Pruning(t, prune, looked, space)


def _changed(expected: Mapping[str, int], held: Held, now_us: int) -> list[str]:
    """Those of a plan's memories that are not as they were."""
    found = held.known
    return [
        key
        for key, revision in expected.items()
        if (known := found.get(key)) is None or known.revision != revision or not known.is_living(now_us)
    ]


def _decide(pruning: Pruning, decided: Decided, version: int) -> WritePrune:
    t, prune, looked = pruning.transaction, pruning.prune, pruning.looked
    done = [r for r in decided.receipts if r.outcome is not Outcome.UNCHANGED]
    skipped = [r.key for r in decided.receipts if r.outcome is Outcome.UNCHANGED]
    memories_before = pruning.before.memories - looked.expired
    found = verdicts(prune.guards, len(done), memories_before) if prune.guards else ()
    if tripped(found) - prune.confirmed:
        raise PruneConfirmationRequired(
            namespace=t.scope.namespace,
            plan_id=prune.plan_id,
            memories=len(done),
            memories_before=memories_before,
            guards=tuple(f"{v.name} is {v.bound:g}, this is {v.value:g}" for v in found if v.tripped),
        )
    # Others have gone since it was chosen what is over.
    missing = prune.keep - (memories_before - len(done))
    if prune.keep and missing > 0:
        raise PrunePlanStale(namespace=t.scope.namespace, plan_id=prune.plan_id, changed=missing, names=())
    unknown = prune.unknown + len(skipped)
    facts = {
        "number": looked.number,
        "action": prune.action.value,
        "tenant": t.scope.tenant,
        "namespace": t.scope.namespace,
        "time_us": decided.time_us,
        "committer": t.committer,
        "source": prune.source.name.lower(),
        "request_id": t.request.request_id if t.request else "",
        "plan_id": prune.plan_id,
        "order_id": prune.order_id,
        "order_digest": prune.order_digest.hex(),
        "memories": len(done),
        "memories_before": memories_before,
        "memories_after": decided.space.memories - looked.expired,
        "skipped": unknown,
        "skipped_keys": [*prune.unknown_keys, *skipped][:NAMES_KEPT],
        "confirmed": bool(tripped(found)),
        "guards": {v.name: {"value": v.value, "bound": v.bound, "tripped": v.tripped} for v in found},
        "undo_of": prune.undo_of,
        "version": version,
    }
    record = codec.to_json(facts)
    audit = PruneAudit(looked.number, decided.time_us, record, next_hash(looked.last_hash, record))
    if prune.action is PruneAction.UNDO:
        return WritePrune(audit, None)
    items = tuple(PruneItem(r.key, r.revision) for r in done)
    return WritePrune(audit, Undoable(audit.number, decided.time_us + prune.undelete_s * 1_000_000, 0, items))


def is_undoing(audit: PruneAudit) -> bool:
    """Whether an audit is of an undoing."""
    return bool(orjson.loads(audit.record)["action"] == PruneAction.UNDO.value)


def next_hash(before: bytes, record: str) -> bytes:
    """The hash of an audit: of the one before it, and its own record."""
    return hashlib.sha256(before + record.encode()).digest()


# ---- what lies in a database


def items_to_bytes(items: Sequence[PruneItem]) -> bytes:
    """Keys and revisions, packed."""
    return zlib.compress(orjson.dumps([(item.key, item.revision) for item in items]), 1)


def items_from_bytes(kept: bytes) -> tuple[PruneItem, ...]:
    """The same again."""
    return tuple(PruneItem(key, revision) for key, revision in orjson.loads(zlib.decompress(kept)))


def digest_of(items: Sequence[PruneItem]) -> bytes:
    """SHA-256 of keys and revisions, in their order."""
    return hashlib.sha256(orjson.dumps([(item.key, item.revision) for item in items])).digest()
