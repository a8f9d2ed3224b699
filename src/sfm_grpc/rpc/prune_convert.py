"""Between the messages of Pruner and records."""

from __future__ import annotations

import orjson
from sfm.v1 import pruner_pb2

from sfm_grpc import wire
from sfm_grpc.coordinator.pruner import Order, Planned, PruneCommit, Pruned
from sfm_grpc.errors import InvalidRequest, LimitExceeded
from sfm_grpc.model import GuardVerdict, LimitPolicy, PlanState, PruneAudit, PrunePlan, PruneSource, Space
from sfm_grpc.rpc.convert import parsed, timestamp, updates

# ---- requests --------------------------------------------------------------------------------------------------------


def apply_request(raw: bytes, bytes_max: int) -> tuple[pruner_pb2.ApplyPruneRequest, list[memoryview]]:
    """An ApplyPruneRequest, the numbers of its matrices taken out. Raises LimitExceeded, InvalidRequest."""
    try:
        skeleton, bodies = wire.split(raw, wire.APPLY_PRUNE_REQUEST, skeleton_bytes_max=bytes_max)
    except wire.SkeletonTooLarge:
        raise LimitExceeded(limit="batch_bytes_max", value=len(raw), maximum=bytes_max) from None
    except wire.WireError as error:
        raise InvalidRequest(field="message", problem=f"is not a sfm.v1.ApplyPruneRequest: {error}") from error
    return parsed(pruner_pb2.ApplyPruneRequest, skeleton, len(skeleton)), bodies


def commit(request: pruner_pb2.ApplyPruneRequest, bodies: list[memoryview]) -> PruneCommit | None:
    """What is committed with it; None: nothing. Raises InvalidRequest."""
    if not request.HasField("commit"):
        return None
    sent = request.commit
    expected = sent.expected_version if sent.HasField("expected_version") else None
    return PruneCommit(expected, dict(sent.metadata), updates(sent.updates, bodies, "commit.updates"))


def order(request: pruner_pb2.PlanPruneRequest) -> Order:
    """What is to go. Raises InvalidRequest."""
    match request.WhichOneof("what"):
        case "order":
            return Order(request.order.keys)
        case "fallback":
            return Order(None, keep=request.fallback.keep)
    raise InvalidRequest(field="what", problem="says neither order nor fallback")


def plan_state(number: int) -> PlanState | None:
    """Which plans; None: all. Raises InvalidRequest."""
    try:
        return PlanState(number) if number else None
    except ValueError:
        raise InvalidRequest(field="state", problem=f"is {number}, which this server does not know") from None


def limit_policy(number: int) -> LimitPolicy:
    """REFUSE where none is said. Raises InvalidRequest."""
    try:
        return LimitPolicy(number or LimitPolicy.REFUSE)
    except ValueError:
        raise InvalidRequest(field="policy", problem=f"is {number}, which this server does not know") from None


# ---- answers ---------------------------------------------------------------------------------------------------------


def planned(found: Planned, now_us: int) -> pruner_pb2.PrunePlan:
    """A plan, and what the guards say."""
    message = plan(found.plan, now_us)
    message.guards.extend(_guard(v) for v in found.verdicts)
    return message


def plan(p: PrunePlan, now_us: int) -> pruner_pb2.PrunePlan:
    """A plan."""
    return pruner_pb2.PrunePlan(
        plan_id=p.plan_id,
        namespace=p.scope.namespace,
        source=pruner_pb2.PruneSource.ValueType(p.source),
        committer=p.committer,
        order_id=p.order_id,
        state=pruner_pb2.PrunePlanState.ValueType(p.state_at(now_us)),
        create_time=timestamp(p.create_time_us),
        expire_time=timestamp(p.expire_time_us),
        memories=p.memories,
        payload_bytes=p.payload_bytes,
        memories_before=p.memories_before,
        unknown=p.unknown,
        unknown_keys=p.unknown_keys,
        duplicates=p.duplicates,
        sample_keys=p.sample_keys,
        digest=p.digest,
    )


def _guard(v: GuardVerdict) -> pruner_pb2.PruneGuard:
    return pruner_pb2.PruneGuard(name=v.name, value=v.value, bound=v.bound, tripped=v.tripped)


def audit(a: PruneAudit) -> pruner_pb2.PruneAudit:
    """What was done."""
    facts = orjson.loads(a.record)
    return pruner_pb2.PruneAudit(
        number=a.number,
        record=a.record,
        hash=a.hash,
        action=facts["action"],
        time=timestamp(a.time_us),
        committer=facts["committer"],
        source=pruner_pb2.PruneSource.ValueType(PruneSource[facts["source"].upper()]),
        plan_id=facts["plan_id"],
        order_id=facts["order_id"],
        memories=facts["memories"],
        skipped=facts["skipped"],
        undo_of=facts["undo_of"],
        version=facts["version"],
    )


def skipped_keys(done: Pruned) -> list[str]:
    """Keys that were not there, or not as they were left: the first of them."""
    kept: list[str] = orjson.loads(done.audit.record)["skipped_keys"]
    return kept


def limit(space: Space) -> pruner_pb2.MemoryLimit:
    """How many memories a namespace may have."""
    return pruner_pb2.MemoryLimit(
        memories_max=space.memories_max,
        policy=pruner_pb2.MemoryLimitPolicy.ValueType(space.limit_policy),
        memories=space.memories,
    )
