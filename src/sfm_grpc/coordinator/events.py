"""Events, as they lie in the outbox."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson

from sfm_grpc.model import Event, Kind, MemoryReceipt, PruneAction, PruneAudit, PrunePlan, Scope, Version

RHO_STATUS = "rho.status"
MEMORY_EVENT = "memory.event"
PRUNE_RESULT = "prune.result"


def rho_status(node_id: str, scope: Scope) -> Callable[[Version], Event]:
    """`rho.status` of the version that a commit makes: the truth about every density matrix it holds, changed or not."""

    def event(version: Version) -> Event:
        density = [e.certificate for e in version.entries if e.certificate.kind is Kind.DENSITY]
        return Event(
            RHO_STATUS,
            {
                "timestamp": version.commit_time_us / 1e6,
                "node_id": node_id,
                "tenant": scope.tenant,
                "namespace": scope.namespace,
                "version": version.version,
                "psd_ok": all(c.psd_ok for c in density),
                "trace_ok": all(c.trace_ok for c in density),
                "trace_error": max((c.trace_error for c in density), default=0.0),
                "clamped": any(c.clamped for c in density),
            },
        )

    return event


def memory_event(node_id: str, scope: Scope, now_us: int) -> Callable[[Sequence[MemoryReceipt]], Event]:
    """`memory.event` of what one mutation changed: keys and revisions, never a payload."""

    def event(receipts: Sequence[MemoryReceipt]) -> Event:
        return Event(
            MEMORY_EVENT,
            {
                "timestamp": now_us / 1e6,
                "node_id": node_id,
                "tenant": scope.tenant,
                "namespace": scope.namespace,
                "changes": [_change(r) for r in receipts],
            },
        )

    return event


def prune_result(node_id: str) -> Callable[[PruneAudit], Event]:
    """`prune.result` of what was pruned, or undone: what its audit says."""

    def event(audit: PruneAudit) -> Event:
        facts = orjson.loads(audit.record)
        result = {PruneAction.APPLY: "APPLIED", PruneAction.UNDO: "UNDONE"}[PruneAction(facts["action"])]
        told = {"timestamp": audit.time_us / 1e6, "node_id": node_id, "result": result, "hash": audit.hash.hex()}
        return Event(PRUNE_RESULT, told | facts)

    return event


def prune_waits(node_id: str, plan: PrunePlan) -> Event:
    """`prune.result` of an order that waits for somebody to confirm it."""
    return Event(
        PRUNE_RESULT,
        {
            "timestamp": plan.create_time_us / 1e6,
            "node_id": node_id,
            "result": "AWAITING_CONFIRMATION",
            "tenant": plan.scope.tenant,
            "namespace": plan.scope.namespace,
            "plan_id": plan.plan_id,
            "order_id": plan.order_id,
            "source": plan.source.name.lower(),
            "committer": plan.committer,
            "memories": plan.memories,
            "memories_before": plan.memories_before,
            "skipped": plan.unknown,
            "skipped_keys": plan.unknown_keys,
            "expire_time_us": plan.expire_time_us,
        },
    )


def _change(receipt: MemoryReceipt) -> dict[str, object]:
    told: dict[str, object] = {"key": receipt.key, "change": receipt.outcome.name.lower(), "revision": receipt.revision}
    if receipt.link is not None:
        _, link_type, target = receipt.link
        told |= {"link_type": link_type, "target": target}
    return told
