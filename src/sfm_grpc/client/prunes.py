"""The prunes of one namespace, blocking. Each method hands a flow to the driver of `sync`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    from sfm_grpc.client.sync import Driver


class Prunes:
    """Which memories go, by your order; what went, and how it comes back: `client.namespace("n").prunes`.

    `apply` and `undo` also take `request_id` (at most 64 bytes; the same content under the same id is done once, and answered as
    the first time for at least 24 hours), `validate_only` (every check runs, nothing is recorded) and `timeout_s`. Without a
    `request_id` a new one is sent, so that what gRPC retries is done once.
    """

    def __init__(self, namespace: str, flows: Flows, driver: Driver) -> None:
        self.namespace = namespace
        self._flows = PruneFlows(namespace, flows)
        self._driver = driver

    # ---- plans

    def plan(
        self,
        keys: str | Iterable[str] | None = None,
        *,
        keep: int | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> PrunePlan:
        """Plans a prune, and says what it would do; nothing is touched.

        `keys`: what you have ranked, the first to go first. Or `keep`, where nobody ranks: the least important go, of those the
        oldest, until so many are left. Where a guard trips (`needs_confirmation`), `confirm_token` of the plan confirms it, for
        this caller, once, until `expire_time`. The same content under the same `request_id` gets the same plan.

        Raises NotFound (namespace), InvalidRequest, LimitExceeded, RequestIdReused.
        """
        return self._driver.run(self._flows.plan(keys, keep, request_id, timeout_s))

    def get_plan(self, plan_id: str, *, timeout_s: float | None = None) -> PrunePlan:
        """A plan, and what the guards say of it now, with a token for whoever asks. Raises NotFound."""
        return self._driver.run(self._flows.get_plan(plan_id, timeout_s))

    def plans(
        self, *, state: PlanStateName | None = None, page_size: int = 0, timeout_s: float | None = None
    ) -> Iterator[PrunePlan]:
        """The namespace's plans, the newest first, without guards and tokens; pages are asked for when they are needed.

        `state`: "waiting", "applied" or "expired"; None: any. `page_size` 0: the server's. `timeout_s` bounds each page.
        """
        token = ""
        while True:
            page = self._driver.run(self._flows.page(state, page_size, token, timeout_s))
            yield from page.plans
            if not (token := page.next_page_token):
                return

    # ---- what changes memories

    def apply(self, **options: Unpack[ApplyOptions]) -> PruneReceipt:
        """Prunes, all or nothing: by a `plan` or its `plan_id`, or `keys` directly where no guard trips.

        Where one trips, `confirm_token` is the plan's; it is never sent unless it is said here. A memory of the plan that was
        written or went meanwhile makes it stale; new memories do not. Keys that are not there are told, and are no error.

        `rho`: matrices as `Namespace.commit` takes them, which no longer contain what goes, with `expected_version`, `metadata`,
        `max_step` and `kinds`: committed in the same transaction, both or neither. The receipt has theirs, and
        `version`: one that was clamped says so there; read what you go on with.

        Raises PruneConfirmationRequired, PrunePlanStale, PrunePlanSpent, PruneTokenInvalid, NotFound (namespace, plan),
        InvalidRequest, LimitExceeded, RequestIdReused; with `rho` as `Namespace.commit`.
        """
        return self._driver.run(self._flows.apply(**options))

    def undo(self, number: int, **options: Unpack[WriteOptions]) -> UndoReceipt:
        """Makes what a prune deleted be there again, byte for byte; `number` is that of its audit.

        What was written since, has expired or is gone for good is left as it is, and told in `skipped_keys`. Matrices stay as
        they are: `Namespace.restore` is for those. Raises PruneNotUndoable (its window is over, or it was undone), NotFound,
        QuotaExceeded.
        """
        return self._driver.run(self._flows.undo(number, **options))

    # ---- what was done

    def audits(self, *, after: int = 0, page_size: int = 0, timeout_s: float | None = None) -> Iterator[PruneAudit]:
        """What was pruned and undone after a number, by number; pages are asked for when they are needed.

        `page_size` 0: the server's. `timeout_s` bounds each page.
        """
        while page := self._driver.run(self._flows.audits(after, page_size, timeout_s)):
            yield from page
            after = page[-1].number

    def verify_audits(self, *, timeout_s: float | None = None) -> AuditReport:
        """Computes the chain of hashes again from the records, here; `ok` of the report says whether it holds.

        Every record has the number that follows, from 1; its hash is SHA-256 of the one before it (first: 32 zero bytes) and the
        record's bytes; what an answer says beside the record is in it. A chain that was cut at its end, or made anew as a whole,
        holds too: whoever wants to know that keeps a number and its hash elsewhere. `timeout_s` bounds each page.
        """
        return self._driver.run(self._flows.verify_audits(timeout_s))

    # ---- limits

    def limit(self, *, timeout_s: float | None = None) -> MemoryLimit:
        """How many memories the namespace may have, and has. Raises NotFound (namespace)."""
        return self._driver.run(self._flows.limit(timeout_s))

    def set_limit(self, memories_max: int, policy: PolicyName = "refuse", *, timeout_s: float | None = None) -> MemoryLimit:
        """Sets how many memories the namespace may have (0: any number), and what becomes of those beyond.

        "refuse": a put that would make more is a QuotaExceeded. "prune": the least important go a little later, of those the
        oldest, within the guards; what is over a guard waits as a plan. What is there already stays until something is put.

        Raises NotFound (namespace), InvalidRequest.
        """
        return self._driver.run(self._flows.set_limit(memories_max, policy, timeout_s))
