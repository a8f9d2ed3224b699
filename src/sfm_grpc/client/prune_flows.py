"""The operations on prunes, written once, as generators of steps (see `steps`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, Unpack

from google.protobuf.message import Message
from sfm.v1 import pruner_pb2

from sfm_grpc.client import prune_convert
from sfm_grpc.client.commits import base_version, matrices_of, updates
from sfm_grpc.client.convert import joined_prune
from sfm_grpc.client.flows import Flows, new_request_id
from sfm_grpc.client.memory_convert import names_of, sendable
from sfm_grpc.client.memory_records import WriteOptions
from sfm_grpc.client.prune_records import (
    ApplyOptions,
    AuditReport,
    MemoryLimit,
    PlanStateName,
    PolicyName,
    PruneAudit,
    PrunePlan,
    PrunePlanPage,
    PruneReceipt,
    UndoReceipt,
)
from sfm_grpc.client.steps import Flow
from sfm_grpc.errors import InvalidRequest
from sfm_grpc.model import Matrix

PLAN_PRUNE = "/sfm.v1.Pruner/PlanPrune"
GET_PRUNE_PLAN = "/sfm.v1.Pruner/GetPrunePlan"
LIST_PRUNE_PLANS = "/sfm.v1.Pruner/ListPrunePlans"
APPLY_PRUNE = "/sfm.v1.Pruner/ApplyPrune"
UNDO_PRUNE = "/sfm.v1.Pruner/UndoPrune"
LIST_PRUNE_AUDITS = "/sfm.v1.Pruner/ListPruneAudits"
SET_MEMORY_LIMIT = "/sfm.v1.Pruner/SetMemoryLimit"
GET_MEMORY_LIMIT = "/sfm.v1.Pruner/GetMemoryLimit"
METHODS = (
    *(PLAN_PRUNE, GET_PRUNE_PLAN, LIST_PRUNE_PLANS, APPLY_PRUNE, UNDO_PRUNE, LIST_PRUNE_AUDITS),
    *(SET_MEMORY_LIMIT, GET_MEMORY_LIMIT),
)

_Request = TypeVar("_Request", bound=Message)


class PruneFlows:
    """The operations on the prunes of one namespace; "", for lists of plans: of all."""

    def __init__(self, namespace: str, flows: Flows) -> None:
        self.namespace = namespace
        self._flows = flows

    # ---- plans

    def plan(
        self, keys: str | Iterable[str] | None, keep: int | None, request_id: str | None, timeout_s: float | None
    ) -> Flow[PrunePlan]:
        """Plans a prune."""
        if (keys is None) == (keep is None):
            raise InvalidRequest(field="what", problem="just one of keys and keep says what is to go")
        request = self._request(pruner_pb2.PlanPruneRequest, request_id=new_request_id() if request_id is None else request_id)
        with sendable("keys" if keep is None else "keep"):
            if keep is None:
                request.order.CopyFrom(_order(keys))
            else:
                request.fallback.CopyFrom(pruner_pb2.PruneFallback(keep=keep))
        reply = yield from self._call(PLAN_PRUNE, request, timeout_s)
        return prune_convert.planned_of(reply, pruner_pb2.PlanPruneResponse)

    def get_plan(self, plan_id: str, timeout_s: float | None) -> Flow[PrunePlan]:
        """A plan as it is now."""
        request = self._request(pruner_pb2.GetPrunePlanRequest, plan_id=plan_id)
        reply = yield from self._call(GET_PRUNE_PLAN, request, timeout_s)
        return prune_convert.planned_of(reply, pruner_pb2.GetPrunePlanResponse)

    def page(self, state: PlanStateName | None, page_size: int, page_token: str, timeout_s: float | None) -> Flow[PrunePlanPage]:
        """One page of plans, the newest first."""
        chosen = prune_convert.state_of(state)
        request = self._request(pruner_pb2.ListPrunePlansRequest, state=chosen, page_size=page_size, page_token=page_token)
        return prune_convert.plans_of((yield from self._call(LIST_PRUNE_PLANS, request, timeout_s)))

    # ---- what changes memories

    def apply(self, **options: Unpack[ApplyOptions]) -> Flow[PruneReceipt]:
        """Prunes, and commits what goes with it. No numbers are kept: the answer does not say whether one was clamped."""
        request = self._request(pruner_pb2.ApplyPruneRequest, confirm_token=options.get("confirm_token", ""))
        self._say_what(request, options)
        self._say_how(request, options)
        matrices = self._say_commit(request, options)
        message = joined_prune(request, matrices.values())
        reply = yield from self._flows.call(self.namespace, APPLY_PRUNE, message, options.get("timeout_s"))
        receipt = prune_convert.receipt_of(reply, request.request_id)
        if not request.validate_only:
            self._flows.kept.saw(self.namespace, receipt.version)
        return receipt

    def _say_what(self, request: pruner_pb2.ApplyPruneRequest, options: ApplyOptions) -> None:
        plan, plan_id, keys = options.get("plan"), options.get("plan_id", ""), options.get("keys")
        if (plan is not None) + bool(plan_id) + (keys is not None) != 1:
            raise InvalidRequest(field="what", problem="just one of plan, plan_id and keys says what is to go")
        if plan is not None and plan.namespace != self.namespace:
            raise InvalidRequest(field="plan", problem=f"it is of {plan.namespace!r}, not of {self.namespace!r}")
        with sendable("plan_id" if keys is None else "keys"):
            if keys is None:
                request.plan_id = plan_id if plan is None else plan.plan_id
            else:
                request.order.CopyFrom(_order(keys))

    def _say_how(self, request: pruner_pb2.ApplyPruneRequest | pruner_pb2.UndoPruneRequest, options: WriteOptions) -> None:
        given = options.get("request_id")
        with sendable("request_id"):
            request.request_id = new_request_id() if given is None else given
        request.validate_only = options.get("validate_only", False)

    def _say_commit(self, request: pruner_pb2.ApplyPruneRequest, options: ApplyOptions) -> Mapping[str, Matrix]:
        """What is committed with it, as `Flows.commit` says it; the matrices whose numbers go where room is left for them."""
        changes, expected = options.get("rho"), options.get("expected_version")
        metadata, max_step, kinds = options.get("metadata"), options.get("max_step"), options.get("kinds")
        if changes is None:
            given = {"expected_version": expected, "metadata": metadata, "max_step": max_step, "kinds": kinds}
            if said := [name for name, value in given.items() if value is not None]:
                raise InvalidRequest(field=said[0], problem="is of the matrices that go with a prune, and rho says none")
            return {}
        if expected is None:
            raise InvalidRequest(field="expected_version", problem="is needed with rho: the version that you decided on")
        base = base_version(self.namespace, expected)
        matrices = matrices_of(changes, expected, kinds=kinds, max_step=max_step)
        with sendable("commit"):
            commit = pruner_pb2.PruneCommit(
                expected_version=base, metadata=metadata, updates=updates(changes, matrices, max_step)
            )
        request.commit.CopyFrom(commit)
        return matrices

    def undo(self, number: int, **options: Unpack[WriteOptions]) -> Flow[UndoReceipt]:
        """Takes a prune back."""
        request = self._request(pruner_pb2.UndoPruneRequest, number=number)
        self._say_how(request, options)
        reply = yield from self._call(UNDO_PRUNE, request, options.get("timeout_s"))
        return prune_convert.undone_of(reply, request.request_id)

    # ---- what was done

    def audits(self, after: int, page_size: int, timeout_s: float | None) -> Flow[tuple[PruneAudit, ...]]:
        """One page of audits; an empty one: there are no more."""
        request = self._request(pruner_pb2.ListPruneAuditsRequest, after=after, page_size=page_size)
        return prune_convert.audits_of((yield from self._call(LIST_PRUNE_AUDITS, request, timeout_s)))

    def verify_audits(self, timeout_s: float | None) -> Flow[AuditReport]:
        """Computes the chain of hashes again, from the first audit to the last or to one that is wrong."""
        chain = prune_convert.AuditChain(self.namespace)
        while page := (yield from self.audits(chain.number, 0, timeout_s)):
            if not all(map(chain.add, page)):
                break
        return chain.report()

    # ---- limits

    def limit(self, timeout_s: float | None) -> Flow[MemoryLimit]:
        """The limit, and how many memories there are."""
        reply = yield from self._call(GET_MEMORY_LIMIT, self._request(pruner_pb2.GetMemoryLimitRequest), timeout_s)
        return prune_convert.limit_of(reply, pruner_pb2.GetMemoryLimitResponse)

    def set_limit(self, memories_max: int, policy: PolicyName, timeout_s: float | None) -> Flow[MemoryLimit]:
        """Sets it. Done twice it is the same."""
        chosen = prune_convert.policy_of(policy)
        request = self._request(pruner_pb2.SetMemoryLimitRequest, memories_max=memories_max, policy=chosen)
        reply = yield from self._call(SET_MEMORY_LIMIT, request, timeout_s)
        return prune_convert.limit_of(reply, pruner_pb2.SetMemoryLimitResponse)

    def _request(self, kind: type[_Request], **fields: Any) -> _Request:
        with sendable("request"):
            return kind(namespace=self.namespace, **fields)

    def _call(self, method: str, request: Message, timeout_s: float | None) -> Flow[bytes]:
        return (yield from self._flows.call(self.namespace, method, request.SerializeToString(), timeout_s))


def _order(keys: str | Iterable[str] | None) -> pruner_pb2.PruneOrder:
    return pruner_pb2.PruneOrder(keys=names_of(keys or ()))
