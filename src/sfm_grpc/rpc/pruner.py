"""sfm.v1.Pruner: check, call, translate."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from sfm.v1 import pruner_pb2
from sfm.v1.pruner_pb2 import (
    ApplyPruneResponse,
    GetMemoryLimitResponse,
    GetPrunePlanResponse,
    ListPruneAuditsResponse,
    ListPrunePlansResponse,
    PlanPruneResponse,
    SetMemoryLimitResponse,
    UndoPruneResponse,
)

from sfm_grpc.coordinator.pruner import Order, PruneCoordinator, PruneMutation
from sfm_grpc.errors import InvalidRequest
from sfm_grpc.rpc import convert, prune_convert
from sfm_grpc.rpc.caller import Context, committer_of, scope_of


class _Pruning(Protocol):
    """What every request that prunes has."""

    @property
    def namespace(self) -> str:
        """Where."""

    @property
    def request_id(self) -> str:
        """By which it is known again."""


class PrunerServicer:
    """The RPCs of Pruner. ApplyPrune takes raw bytes, so that numbers are not copied."""

    def __init__(
        self, pruner: PruneCoordinator, *, deadline: Callable[[Context], float], undelete_s: int, batch_bytes_max: int
    ) -> None:
        self._pruner = pruner
        self._deadline = deadline
        self._undelete_s = undelete_s
        self._batch_bytes_max = batch_bytes_max

    def _mutation(self, method: str, request: _Pruning, context: Context, *, validate_only: bool = False) -> PruneMutation:
        return PruneMutation(
            method=method,
            scope=scope_of(context, request.namespace),
            request_id=request.request_id,
            committer=committer_of(context),
            deadline=self._deadline(context),
            validate_only=validate_only,
        )

    # ---- plans

    async def PlanPrune(self, request: pruner_pb2.PlanPruneRequest, context: Context) -> PlanPruneResponse:  # noqa: N802
        """See pruner.proto."""
        mutation = self._mutation("PlanPrune", request, context)
        found = await self._pruner.plan(mutation, prune_convert.order(request))
        return PlanPruneResponse(plan=prune_convert.planned(found, _now_us()), confirm_token=found.token)

    async def GetPrunePlan(  # noqa: N802
        self, request: pruner_pb2.GetPrunePlanRequest, context: Context
    ) -> GetPrunePlanResponse:
        """See pruner.proto."""
        scope = scope_of(context, request.namespace)
        found = await self._pruner.get_plan(scope, request.plan_id, committer_of(context))
        return GetPrunePlanResponse(plan=prune_convert.planned(found, _now_us()), confirm_token=found.token)

    async def ListPrunePlans(  # noqa: N802
        self, request: pruner_pb2.ListPrunePlansRequest, context: Context
    ) -> ListPrunePlansResponse:
        """See pruner.proto."""
        scope, state = scope_of(context, request.namespace), prune_convert.plan_state(request.state)
        found, token = await self._pruner.plans(scope, state, request.page_size, request.page_token)
        now_us = _now_us()
        return ListPrunePlansResponse(plans=[prune_convert.plan(p, now_us) for p in found], next_page_token=token)

    # ---- doing

    async def ApplyPrune(self, raw: bytes, context: Context) -> ApplyPruneResponse:  # noqa: N802
        """See pruner.proto."""
        request, bodies = prune_convert.apply_request(raw, self._batch_bytes_max)
        mutation = self._mutation("ApplyPrune", request, context, validate_only=request.validate_only)
        commit = prune_convert.commit(request, bodies)
        match request.WhichOneof("what"):
            case "plan_id":
                done = await self._pruner.apply_plan(mutation, request.plan_id, request.confirm_token, commit)
            case "order":
                if request.confirm_token:
                    raise InvalidRequest(field="confirm_token", problem="confirms a plan; an order has none")
                done = await self._pruner.apply_order(mutation, Order(request.order.keys), commit)
            case _:
                raise InvalidRequest(field="what", problem="says neither plan_id nor order")
        return ApplyPruneResponse(
            audit=prune_convert.audit(done.audit),
            unknown_keys=prune_convert.skipped_keys(done),
            replayed=done.replayed,
            undo_until=convert.timestamp(done.audit.time_us + self._undelete_s * 1_000_000),
            receipts=[convert.receipt(r) for r in done.receipts],
        )

    async def UndoPrune(self, request: pruner_pb2.UndoPruneRequest, context: Context) -> UndoPruneResponse:  # noqa: N802
        """See pruner.proto."""
        mutation = self._mutation("UndoPrune", request, context, validate_only=request.validate_only)
        done = await self._pruner.undo(mutation, request.number)
        return UndoPruneResponse(
            audit=prune_convert.audit(done.audit), skipped_keys=prune_convert.skipped_keys(done), replayed=done.replayed
        )

    # ---- what was done, limits

    async def ListPruneAudits(  # noqa: N802
        self, request: pruner_pb2.ListPruneAuditsRequest, context: Context
    ) -> ListPruneAuditsResponse:
        """See pruner.proto."""
        found = await self._pruner.audits(scope_of(context, request.namespace), request.after, request.page_size)
        return ListPruneAuditsResponse(audits=[prune_convert.audit(a) for a in found])

    async def SetMemoryLimit(  # noqa: N802
        self, request: pruner_pb2.SetMemoryLimitRequest, context: Context
    ) -> SetMemoryLimitResponse:
        """See pruner.proto."""
        scope, policy = scope_of(context, request.namespace), prune_convert.limit_policy(request.policy)
        space = await self._pruner.set_limit(scope, request.memories_max, policy)
        return SetMemoryLimitResponse(limit=prune_convert.limit(space))

    async def GetMemoryLimit(  # noqa: N802
        self, request: pruner_pb2.GetMemoryLimitRequest, context: Context
    ) -> GetMemoryLimitResponse:
        """See pruner.proto."""
        return GetMemoryLimitResponse(limit=prune_convert.limit(await self._pruner.limit(scope_of(context, request.namespace))))


def _now_us() -> int:
    return time.time_ns() // 1000
