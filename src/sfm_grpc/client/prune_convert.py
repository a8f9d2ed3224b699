"""Between the messages of Pruner and records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message
from sfm.v1 import pruner_pb2

from sfm_grpc.client.commits import matrix_receipt_of
from sfm_grpc.client.convert import believed, us_of
from sfm_grpc.client.prune_records import (
    AuditReport,
    MemoryLimit,
    PlanStateName,
    PolicyName,
    PruneAudit,
    PruneGuard,
    PrunePlan,
    PrunePlanPage,
    PruneReceipt,
    SourceName,
    UndoReceipt,
)
from sfm_grpc.client.records import frozen, microseconds, moment
from sfm_grpc.errors import InvalidRequest

_SOURCES: Mapping[int, SourceName] = {
    pruner_pb2.PRUNE_SOURCE_CALL: "call",
    pruner_pb2.PRUNE_SOURCE_MESSAGE: "message",
    pruner_pb2.PRUNE_SOURCE_LIMIT: "limit",
}
_STATES: Mapping[PlanStateName, pruner_pb2.PrunePlanState.ValueType] = {
    "waiting": pruner_pb2.PRUNE_PLAN_STATE_WAITING,
    "applied": pruner_pb2.PRUNE_PLAN_STATE_APPLIED,
    "expired": pruner_pb2.PRUNE_PLAN_STATE_EXPIRED,
}
_STATE_NAMES = {value: name for name, value in _STATES.items()}
_POLICIES: Mapping[PolicyName, pruner_pb2.MemoryLimitPolicy.ValueType] = {
    "refuse": pruner_pb2.MEMORY_LIMIT_POLICY_REFUSE,
    "prune": pruner_pb2.MEMORY_LIMIT_POLICY_PRUNE,
}
_POLICY_NAMES = {value: name for name, value in _POLICIES.items()}

_FIRST_HASH = bytes(32)
# What an answer says beside a record is what the record says.
_TOLD = ("number", "action", "committer", "source", "plan_id", "order_id", "memories", "skipped", "undo_of", "version")


# ---- what is asked


def state_of(state: PlanStateName | None) -> pruner_pb2.PrunePlanState.ValueType:
    """The state of a list's filter; None: any. Raises InvalidRequest."""
    if state is None:
        return pruner_pb2.PRUNE_PLAN_STATE_UNSPECIFIED
    if state not in _STATES:
        raise InvalidRequest(field="state", problem=f"{state!r} is none of {', '.join(_STATES)}")
    return _STATES[state]


def policy_of(policy: PolicyName) -> pruner_pb2.MemoryLimitPolicy.ValueType:
    """A limit's policy. Raises InvalidRequest."""
    if policy not in _POLICIES:
        raise InvalidRequest(field="policy", problem=f"{policy!r} is none of {', '.join(_POLICIES)}")
    return _POLICIES[policy]


# ---- what is answered


def planned_of(reply: bytes, kind: type[pruner_pb2.PlanPruneResponse | pruner_pb2.GetPrunePlanResponse]) -> PrunePlan:
    """A PlanPruneResponse or a GetPrunePlanResponse. Raises UnexpectedStatus, as all of these, when it is none."""
    with believed(_method(kind)):
        response = kind.FromString(reply)
        return _plan(response.plan, response.confirm_token)


def plans_of(reply: bytes) -> PrunePlanPage:
    """A ListPrunePlansResponse."""
    with believed("ListPrunePlans"):
        response = pruner_pb2.ListPrunePlansResponse.FromString(reply)
        return PrunePlanPage(tuple(map(_plan, response.plans)), response.next_page_token)


def _plan(m: pruner_pb2.PrunePlan, confirm_token: str = "") -> PrunePlan:
    return PrunePlan(
        plan_id=m.plan_id,
        namespace=m.namespace,
        source=_SOURCES.get(m.source, "unknown"),
        committer=m.committer,
        order_id=m.order_id,
        state=_STATE_NAMES.get(m.state, "unknown"),
        create_time=moment(us_of(m.create_time)),
        expire_time=moment(us_of(m.expire_time)),
        memories=m.memories,
        payload_bytes=m.payload_bytes,
        memories_before=m.memories_before,
        unknown=m.unknown,
        unknown_keys=tuple(m.unknown_keys),
        duplicates=m.duplicates,
        sample_keys=tuple(m.sample_keys),
        digest=m.digest,
        guards=tuple(PruneGuard(g.name, g.value, g.bound, g.tripped) for g in m.guards),
        confirm_token=confirm_token,
    )


def receipt_of(reply: bytes, request_id: str) -> PruneReceipt:
    """An ApplyPruneResponse."""
    with believed("ApplyPrune"):
        response = pruner_pb2.ApplyPruneResponse.FromString(reply)
        return PruneReceipt(
            audit=_audit(response.audit),
            unknown_keys=tuple(response.unknown_keys),
            undo_until=moment(us_of(response.undo_until)) if response.HasField("undo_until") else None,
            replayed=response.replayed,
            request_id=request_id,
            receipts=frozen({r.key: matrix_receipt_of(r) for r in response.receipts}),
        )


def undone_of(reply: bytes, request_id: str) -> UndoReceipt:
    """An UndoPruneResponse."""
    with believed("UndoPrune"):
        response = pruner_pb2.UndoPruneResponse.FromString(reply)
        return UndoReceipt(_audit(response.audit), tuple(response.skipped_keys), response.replayed, request_id)


def audits_of(reply: bytes) -> tuple[PruneAudit, ...]:
    """A ListPruneAuditsResponse."""
    with believed("ListPruneAudits"):
        return tuple(map(_audit, pruner_pb2.ListPruneAuditsResponse.FromString(reply).audits))


def _audit(m: pruner_pb2.PruneAudit) -> PruneAudit:
    return PruneAudit(
        number=m.number,
        record=m.record,
        hash=m.hash,
        action=m.action,
        time=moment(us_of(m.time)),
        committer=m.committer,
        source=_SOURCES.get(m.source, "unknown"),
        plan_id=m.plan_id,
        order_id=m.order_id,
        memories=m.memories,
        skipped=m.skipped,
        undo_of=m.undo_of,
        version=m.version,
    )


def limit_of(reply: bytes, kind: type[pruner_pb2.SetMemoryLimitResponse | pruner_pb2.GetMemoryLimitResponse]) -> MemoryLimit:
    """A SetMemoryLimitResponse or a GetMemoryLimitResponse."""
    with believed(_method(kind)):
        limit = kind.FromString(reply).limit
        return MemoryLimit(limit.memories_max, _POLICY_NAMES.get(limit.policy, "unknown"), limit.memories)


def _method(kind: type[Message]) -> str:
    return kind.DESCRIPTOR.name.removesuffix("Response")


# ---- the chain of audits


class AuditChain:
    """Follows the audits of a namespace from the first, and knows where one does not follow the one before it."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._last = _FIRST_HASH
        self.number = 0
        """Of the last that was right."""
        self._problem = ""

    def add(self, audit: PruneAudit) -> bool:
        """Looks at the next one; False: it is wrong, and nothing after it is looked at."""
        self._problem = self._wrong(audit)
        if not self._problem:
            self.number, self._last = audit.number, audit.hash
        return not self._problem

    def _wrong(self, audit: PruneAudit) -> str:
        if audit.number != self.number + 1:
            return f"it is not there: {audit.number} comes after {self.number}"
        computed = hashlib.sha256(self._last + audit.record.encode()).digest()
        if computed != audit.hash:
            return f"its hash is {audit.hash.hex()}; of the hash before it and its record it is {computed.hex()}"
        try:
            record = json.loads(audit.record)
            differing = [name for name, told in self._told(audit).items() if record[name] != told]
        except (ValueError, TypeError, LookupError):
            return "its record is not that of an audit"
        return f"its record says otherwise of {', '.join(differing)}" if differing else ""

    def _told(self, audit: PruneAudit) -> dict[str, Any]:
        told = {name: getattr(audit, name) for name in _TOLD}
        return {"namespace": self._namespace, "time_us": microseconds(audit.time), **told}

    def report(self) -> AuditReport:
        """What was found so far."""
        wrong = self.number + 1 if self._problem else 0
        return AuditReport(audits=self.number, last_hash=self._last, wrong_number=wrong, problem=self._problem)
