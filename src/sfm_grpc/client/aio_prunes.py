"""The prunes of one namespace, for asyncio. The same methods as in `prunes`, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Unpack

from sfm_grpc.client.flows import Flows
from sfm_grpc.client.memory_records import WriteOptions
from sfm_grpc.client.prune_flows import PruneFlows
from sfm_grpc.client.prune_records import (
    ApplyOptions,
    AuditReport,
    MemoryLimit,
    PlanStateName,
    PolicyName,
    PruneAudit,
    PrunePlan,
    PruneReceipt,
    UndoReceipt,
)

if TYPE_CHECKING:
    from sfm_grpc.client.aio import Driver


class AsyncPrunes:
    """Which memories go, by your order; what `Prunes` says of its options holds here too."""

    def __init__(self, namespace: str, flows: Flows, driver: Driver) -> None:
        self.namespace = namespace
        self._flows = PruneFlows(namespace, flows)
        self._driver = driver

    async def plan(
        self,
        keys: str | Iterable[str] | None = None,
        *,
        keep: int | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> PrunePlan:
        """As `Prunes.plan`."""
        return await self._driver.run(self._flows.plan(keys, keep, request_id, timeout_s))

    async def get_plan(self, plan_id: str, *, timeout_s: float | None = None) -> PrunePlan:
        """As `Prunes.get_plan`."""
        return await self._driver.run(self._flows.get_plan(plan_id, timeout_s))

    async def plans(
        self, *, state: PlanStateName | None = None, page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[PrunePlan]:
        """As `Prunes.plans`: `async for plan in prunes.plans()`."""
        token = ""
        while True:
            page = await self._driver.run(self._flows.page(state, page_size, token, timeout_s))
            for plan in page.plans:
                yield plan
            if not (token := page.next_page_token):
                return

    async def apply(self, **options: Unpack[ApplyOptions]) -> PruneReceipt:
        """As `Prunes.apply`."""
        return await self._driver.run(self._flows.apply(**options))

    async def undo(self, number: int, **options: Unpack[WriteOptions]) -> UndoReceipt:
        """As `Prunes.undo`."""
        return await self._driver.run(self._flows.undo(number, **options))

    async def audits(self, *, after: int = 0, page_size: int = 0, timeout_s: float | None = None) -> AsyncIterator[PruneAudit]:
        """As `Prunes.audits`."""
        while page := await self._driver.run(self._flows.audits(after, page_size, timeout_s)):
            for audit in page:
                yield audit
            after = page[-1].number

    async def verify_audits(self, *, timeout_s: float | None = None) -> AuditReport:
        """As `Prunes.verify_audits`."""
        return await self._driver.run(self._flows.verify_audits(timeout_s))

    async def limit(self, *, timeout_s: float | None = None) -> MemoryLimit:
        """As `Prunes.limit`."""
        return await self._driver.run(self._flows.limit(timeout_s))

    async def set_limit(self, memories_max: int, policy: PolicyName = "refuse", *, timeout_s: float | None = None) -> MemoryLimit:
        """As `Prunes.set_limit`."""
        return await self._driver.run(self._flows.set_limit(memories_max, policy, timeout_s))
