"""What every engine promises of prunes, besides `storage.contract.Store.commit`, which executes them.

`storage.prunes` says what a prune checks and keeps; tests/contract is the same as this page in code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from sfm_grpc.model import Event, MemoryLimit, PlanState, PruneAudit, PruneItem, PrunePlan, Scope, Space, Undoable
from sfm_grpc.storage.memory_writes import Known


class PruneTables(Protocol):
    """Plans, audits and limits of a canonical store. Each question is one consistent look, and raises StoreUnavailable."""

    async def space(self, scope: Scope, now_us: int) -> Space:
        """A namespace, its `memories` without those that have expired and were not swept yet. Raises NotFound (namespace)."""

    async def look(self, scope: Scope, keys: Sequence[str], now_us: int) -> tuple[Space, Mapping[str, Known]]:
        """The same, and what is known of these keys, living or not. Raises NotFound (namespace)."""

    async def least(self, scope: Scope, keep: int, limit: int, now_us: int) -> tuple[Space, int, Sequence[PruneItem]]:
        """The same, and what the fallback would prune to `keep` memories, the first to go first; at most `limit` of it.

        The number between them is the bytes of their payloads. Raises NotFound (namespace).
        """

    # ---- plans

    async def keep_plan(self, plan: PrunePlan, event: Event | None) -> PrunePlan:
        """Keeps a plan, and with it what the world is told of it; the one that is there under its id, where there is one."""

    async def plan(self, scope: Scope, plan_id: str, *, items: bool) -> PrunePlan | None:
        """A plan, with its items or without."""

    async def plans(
        self, tenant: str, namespace: str, state: PlanState | None, *, now_us: int, before: tuple[int, str] | None, limit: int
    ) -> Sequence[PrunePlan]:
        """A tenant's plans without their items, the newest first; `namespace` "": of all. The page goes on after `before`."""

    # ---- what was done

    async def audits(self, scope: Scope, *, after: int, limit: int) -> Sequence[PruneAudit]:
        """What was done in a namespace after a number, by number."""

    async def undoable(self, scope: Scope, number: int) -> Undoable | None:
        """How a prune can be undone; None: there is no such prune, or its window is over."""

    async def forget(self, now_us: int, plans_before_us: int) -> int:
        """Takes away what can be undone no more, and plans that expired before a time; how many. Audits stay."""

    # ---- limits

    async def set_limit(self, scope: Scope, limit: MemoryLimit, now_us: int) -> Space:
        """Sets a namespace's limit; the namespace as `space` says it. Raises NotFound (namespace)."""

    async def over_limit(self, *, after: Scope | None, limit: int) -> Sequence[tuple[Scope, Space]]:
        """Namespaces that have more memories than their limit, and whose policy is to prune, ordered by tenant and name."""
