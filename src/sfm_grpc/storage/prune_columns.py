"""Plans and audits as rows: what both engines say alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from sfm_grpc.model import (
    MemoryLimit,
    PlanState,
    Prune,
    PruneAudit,
    PruneItem,
    PrunePlan,
    PruneSource,
    Scope,
    Transaction,
    Undoable,
)
from sfm_grpc.storage import codec, prunes
from sfm_grpc.storage.prunes import LookedPrune, PlanRow, WritePrune

Row = Sequence[Any]

PLAN = (
    "p.plan_id, p.tenant, p.namespace, p.source, p.state, p.create_time_us, p.expire_time_us, p.apply_time_us, p.committer, "
    "p.order_id, p.facts, p.digest, p.order_digest, p.secret"
)
"""The columns that `plan_from` reads, before the items."""

_FACTS = ("memories", "payload_bytes", "memories_before", "unknown", "unknown_keys", "duplicates", "sample_keys", "keep")


def plan_from(row: Row) -> PrunePlan:
    """A plan of its columns; without its items where they were not asked for."""
    plan_id, tenant, namespace, source, state, create_us, expire_us, apply_us, committer, order_id, facts, *blobs, items = row
    said = orjson.loads(facts)
    digest, order_digest, secret = (bytes(each) for each in blobs)
    return PrunePlan(
        plan_id=plan_id,
        scope=Scope(tenant, namespace),
        source=PruneSource(source),
        committer=committer,
        order_id=order_id,
        state=PlanState(state),
        create_time_us=create_us,
        expire_time_us=expire_us,
        apply_time_us=apply_us,
        digest=digest,
        order_digest=order_digest,
        secret=secret,
        items=prunes.items_from_bytes(items) if items is not None else (),
        memories=said["memories"],
        payload_bytes=said["payload_bytes"],
        memories_before=said["memories_before"],
        unknown=said["unknown"],
        unknown_keys=tuple(said["unknown_keys"]),
        duplicates=said["duplicates"],
        sample_keys=tuple(said["sample_keys"]),
        keep=said["keep"],
    )


def row_of(plan: PrunePlan) -> dict[str, object]:
    """The columns of a plan."""
    return {
        "plan_id": plan.plan_id,
        "tenant": plan.scope.tenant,
        "namespace": plan.scope.namespace,
        "source": int(plan.source),
        "state": int(plan.state),
        "create_time_us": plan.create_time_us,
        "expire_time_us": plan.expire_time_us,
        "committer": plan.committer,
        "order_id": plan.order_id,
        "facts": codec.to_json({name: getattr(plan, name) for name in _FACTS}),
        "digest": plan.digest,
        "order_digest": plan.order_digest,
        "secret": plan.secret,
        "items": prunes.items_to_bytes(plan.items),
    }


def audit_from(row: Row) -> PruneAudit:
    """An audit of its columns."""
    number, time_us, record, digest = row
    return PruneAudit(number, time_us, record, bytes(digest))


def undoable_from(row: Row) -> Undoable:
    """What can be undone, of its columns."""
    number, until_us, undone_by, items = row
    return Undoable(number, until_us, undone_by, prunes.items_from_bytes(items))


def looked(prune: Prune, rows: Iterable[Row | None], expired: int) -> LookedPrune:
    """What was found of a prune: the rows of `LOOKS`."""
    plan, undo, last = rows
    number, digest = last or (0, prunes.FIRST_HASH)
    return LookedPrune(
        plan=PlanRow(PlanState(plan[0]), plan[1], plan[2]) if plan else None,
        undoable=Undoable(prune.undo_of, undo[0], undo[1], ()) if undo else None,
        last_number=number,
        last_hash=bytes(digest),
        expired=expired,
    )


def place(t: Transaction, prune: Prune) -> dict[str, object]:
    """What a prune is looked for by."""
    named = {"tenant": t.scope.tenant, "namespace": t.scope.namespace}
    return named | {"plan_id": prune.plan_id, "number": prune.undo_of}


def written(t: Transaction, prune: Prune, made: WritePrune) -> list[tuple[str, dict[str, object]]]:
    """The statements that keep it, and their values."""
    audit, here = made.audit, place(t, prune)
    row = {"number": audit.number, "time_us": audit.time_us, "record": audit.record, "hash": audit.hash}
    statements = [("insert_audit", here | row)]
    if made.undo is not None:
        kept = {"number": audit.number, "until_us": made.undo.until_us, "items": prunes.items_to_bytes(made.undo.items)}
        statements.append(("insert_undo", here | kept))
    if prune.plan_id:
        statements.append(("end_plan", here | {"apply_time_us": audit.time_us}))
    if prune.undo_of:
        statements.append(("end_undo", here | {"undone_by": audit.number}))
    return statements


LOOKS = ("find_plan_row", "find_undo_row", "find_last_audit")
"""The statements whose rows `looked` reads."""


def items_from(rows: Sequence[Row]) -> tuple[int, tuple[PruneItem, ...]]:
    """The bytes of payloads, and the items, of keys, revisions and bytes."""
    return sum(row[2] for row in rows), tuple(PruneItem(key, revision) for key, revision, _ in rows)


def listing(
    tenant: str, namespace: str, state: PlanState | None, *, now_us: int, before: tuple[int, str] | None, limit: int
) -> dict[str, object]:
    """The values of a list of plans."""
    before_us, before_id = before or (1 << 62, "")
    return {
        "tenant": tenant,
        "namespace": namespace,
        "state": int(state or 0),
        "now_us": now_us,
        "before_us": before_us,
        "before_id": before_id,
        "limit": limit,
    }


def limit_of(number: int, limit: MemoryLimit) -> dict[str, object]:
    """The values that set a limit."""
    return {"space_id": number, "memories_max": limit.memories_max, "policy": int(limit.policy)}
