"""Pruning: plans what is to go, and builds the transactions that have it go, or be there again. What goes, others decide."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sfm_grpc.coordinator import events, names, pages
from sfm_grpc.coordinator.commit import CommitPath
from sfm_grpc.coordinator.pages import PageTokens
from sfm_grpc.coordinator.receipts import Receipt
from sfm_grpc.coordinator.rho import Along, Mutation, RhoCoordinator, Update
from sfm_grpc.errors import InvalidRequest, NotFound, PruneTokenInvalid, RequestIdReused
from sfm_grpc.model import (
    CommitResult,
    DeleteMemory,
    GuardVerdict,
    LimitPolicy,
    MemoryLimit,
    MemoryWrites,
    Metadata,
    PlanState,
    Prune,
    PruneAction,
    PruneAudit,
    PruneGuards,
    PruneItem,
    PrunePlan,
    PruneSource,
    RequestIdentity,
    RestoreMemory,
    Scope,
    Space,
    Transaction,
)
from sfm_grpc.storage import prunes
from sfm_grpc.storage.contract import Store

_log = logging.getLogger(__name__)

_SHOWN = prunes.NAMES_KEPT
# What is over a limit and a guard is planned anew so often, as long as nobody applies it.
_LIMIT_PLAN_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class PruneRules:
    """The bounds that prunes are held to."""

    guards: PruneGuards
    order_max: int
    plan_s: int
    undelete_s: int
    page_size_max: int
    node_id: str


@dataclass(frozen=True, slots=True)
class Order:
    """What is to go: keys, the first to go first; or (None) whatever the fallback takes until `keep` are left."""

    keys: Sequence[str] | None
    keep: int = 0
    source: PruneSource = PruneSource.CALL
    order_id: str = ""


@dataclass(frozen=True, slots=True)
class PruneMutation:
    """What a prune says besides what is to go."""

    method: str
    scope: Scope
    request_id: str
    committer: str
    deadline: float
    """On time.monotonic(): work that has not begun by then is not begun."""
    validate_only: bool = False


@dataclass(frozen=True, slots=True)
class PruneCommit:
    """Matrices that are committed with it."""

    expected_version: int | None
    metadata: Metadata
    updates: Sequence[Update]


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan, and what is said of it now."""

    plan: PrunePlan
    verdicts: Sequence[GuardVerdict]
    token: str
    """What confirms it, for this caller; "": nothing needs to, or it does not wait."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """The answer to a prune, or to an undoing."""

    audit: PruneAudit
    replayed: bool
    receipts: Sequence[Receipt] = ()
    """Of the matrices that were committed along."""


class PruneCoordinator:
    """Decides what is planned and answered; executes nothing itself."""

    def __init__(self, store: Store, commits: CommitPath, rho: RhoCoordinator, rules: PruneRules) -> None:
        self._store = store
        self._commits = commits
        self._rho = rho
        self._rules = rules

    # ---- plans

    async def plan(self, mutation: PruneMutation, order: Order) -> Planned:
        """Plans a prune. Of one that came as a message the world is told that it waits: a guard has tripped, if only just before.

        Raises InvalidRequest, LimitExceeded, NotFound (namespace), RequestIdReused, StoreUnavailable.
        """
        self._check(mutation)
        now_us = _now_us()
        made, space = await self._made(mutation, order, now_us)
        event = events.prune_waits(self._rules.node_id, made) if order.source is PruneSource.MESSAGE else None
        kept = await self._store.prunes.keep_plan(made, event)
        _check_same(kept, made.order_digest, mutation)
        return self._planned(kept, space, mutation.committer, now_us)

    async def planned_before(self, mutation: PruneMutation, order: Order) -> PrunePlan | None:
        """The plan that the same request has made. Raises InvalidRequest, RequestIdReused, StoreUnavailable."""
        self._check(mutation)
        plan = await self._store.prunes.plan(mutation.scope, _plan_id(mutation, order), items=False)
        if plan is not None:
            _check_same(plan, _digest_of(order.keys if order.keys is not None else order.keep), mutation)
        return plan

    async def _made(self, mutation: PruneMutation, order: Order, now_us: int) -> tuple[PrunePlan, Space]:
        unknown: list[str] = []
        if order.keys is not None:
            keys = self._checked_keys(order.keys, "order.keys")
            space, known = await self._store.prunes.look(mutation.scope, keys, now_us)
            living = {key: found for key, found in known.items() if found.is_living(now_us)}
            items = tuple(PruneItem(key, living[key].revision) for key in keys if key in living)
            unknown = [key for key in keys if key not in living]
            size = sum(found.payload_bytes for found in living.values())
        else:
            if order.keep < 0:
                raise InvalidRequest(field="fallback.keep", problem=f"is {order.keep}; it must be 0 or more")
            space, size, found_items = await self._store.prunes.least(mutation.scope, order.keep, self._rules.order_max, now_us)
            items = tuple(found_items)
        plan = PrunePlan(
            plan_id=_plan_id(mutation, order),
            scope=mutation.scope,
            source=order.source,
            committer=mutation.committer,
            order_id=order.order_id,
            state=PlanState.WAITING,
            create_time_us=now_us,
            expire_time_us=now_us + self._rules.plan_s * 1_000_000,
            memories=len(items),
            payload_bytes=size,
            memories_before=space.memories,
            unknown=len(unknown),
            unknown_keys=tuple(unknown[:_SHOWN]),
            duplicates=len(order.keys) - len(items) - len(unknown) if order.keys is not None else 0,
            sample_keys=tuple(item.key for item in items[:_SHOWN]),
            digest=prunes.digest_of(items),
            order_digest=_digest_of(order.keys if order.keys is not None else order.keep),
            secret=secrets.token_bytes(32),
            keep=order.keep,
            items=items,
        )
        return plan, space

    async def get_plan(self, scope: Scope, plan_id: str, committer: str) -> Planned:
        """A plan, and what the guards say of it now. Raises InvalidRequest, NotFound, StoreUnavailable."""
        plan, now_us = await self._plan(scope, plan_id, items=False), _now_us()
        return self._planned(plan, await self._store.prunes.space(scope, now_us), committer, now_us)

    async def plans(
        self, scope: Scope, state: PlanState | None, page_size: int, page_token: str
    ) -> tuple[Sequence[PrunePlan], str]:
        """A page of plans, the newest first, of the namespace or (its name "") of the tenant, and the token of the next.

        Raises InvalidRequest, StoreUnavailable.
        """
        if scope.namespace:
            names.check_name(scope.namespace, "namespace")
        size = pages.size(page_size, self._rules.page_size_max)
        tokens = PageTokens("prune plans", scope, state)
        now_us = _now_us()
        found = await self._store.prunes.plans(
            scope.tenant, scope.namespace, state, now_us=now_us, before=_before(tokens, page_token), limit=size + 1
        )
        shown = found[:size]
        token = tokens.after([shown[-1].create_time_us, shown[-1].plan_id]) if len(found) > size else ""
        return shown, token

    def _planned(self, plan: PrunePlan, space: Space, committer: str, now_us: int) -> Planned:
        verdicts = self._verdicts(plan, space)
        waits = plan.state_at(now_us) is PlanState.WAITING
        return Planned(plan, verdicts, _token(plan, committer, prunes.tripped(verdicts)) if waits else "")

    def _verdicts(self, plan: PrunePlan, space: Space) -> Sequence[GuardVerdict]:
        return prunes.verdicts(self._rules.guards, plan.memories, space.memories)

    async def _plan(self, scope: Scope, plan_id: str, *, items: bool = True) -> PrunePlan:
        names.check_name(scope.namespace, "namespace")
        names.check_name(plan_id, "plan_id")
        plan = await self._store.prunes.plan(scope, plan_id, items=items)
        if plan is None:
            raise NotFound(what="prune plan", namespace=scope.namespace, names=(plan_id,))
        return plan

    # ---- doing

    async def apply_plan(self, mutation: PruneMutation, plan_id: str, token: str, commit: PruneCommit | None = None) -> Pruned:
        """Has a plan's memories go, with the matrices that are committed along.

        Raises InvalidRequest, NotFound, PruneTokenInvalid, PrunePlanSpent, PrunePlanStale, PruneConfirmationRequired, what
        `Store.commit` and (with matrices) `RhoCoordinator.commit` raise.
        """
        self._check(mutation)
        plan = await self._plan(mutation.scope, plan_id)
        prune = replace(
            self._planned_prune(plan),
            confirmed=_confirmed(plan, mutation.committer, token),
            plan_id=plan_id,
            order_id=plan.order_id,
            unknown=plan.unknown,
            unknown_keys=plan.unknown_keys,
        )
        return await self._prune(mutation, [item.key for item in plan.items], prune, ["plan", plan_id], commit)

    async def apply_order(self, mutation: PruneMutation, order: Order, commit: PruneCommit | None = None) -> Pruned:
        """Has these go, where that is under the guards. Raises as `apply_plan`, LimitExceeded."""
        self._check(mutation)
        assert order.keys is not None, "the fallback is planned"
        keys = self._checked_keys(order.keys, "order.keys")
        prune = replace(self._applying(order.source, _digest_of(order.keys)), order_id=order.order_id)
        return await self._prune(mutation, keys, prune, ["order", prune.order_digest.hex()], commit)

    async def keep_limit(self, mutation: PruneMutation, keep: int) -> bool:
        """Has what the fallback takes go until `keep` are left, where that is under the guards; else it waits as a plan.

        That is made once an hour at most, by whichever server. Whether memories went. Raises NotFound, PrunePlanStale,
        PruneConfirmationRequired (somebody was faster), StoreUnavailable, and what `Store.commit` raises.
        """
        now_us = _now_us()
        hour = f"{keep} {now_us // _LIMIT_PLAN_US}"
        order, planning = Order(None, keep=keep, source=PruneSource.LIMIT), replace(mutation, request_id=hour)
        if await self._store.prunes.plan(mutation.scope, _plan_id(planning, order), items=False) is not None:
            space = await self._store.prunes.space(mutation.scope, now_us)
            if prunes.tripped(prunes.verdicts(self._rules.guards, space.memories - keep, space.memories)):
                return False
        plan, space = await self._made(planning, order, now_us)
        if not plan.items:
            return False
        if prunes.tripped(self._verdicts(plan, space)):
            kept = await self._store.prunes.keep_plan(plan, events.prune_waits(self._rules.node_id, plan))
            _log.warning("%r has more than its limit of %d memories; plan %s waits", plan.scope.namespace, keep, kept.plan_id)
            return False
        await self._prune(mutation, [item.key for item in plan.items], self._planned_prune(plan), [], None)
        return True

    def _planned_prune(self, plan: PrunePlan) -> Prune:
        """Of what was chosen before."""
        expected = {item.key: item.revision for item in plan.items}
        return replace(self._applying(plan.source, plan.order_digest), expected=expected, keep=plan.keep)

    def _applying(self, source: PruneSource, order_digest: bytes) -> Prune:
        """Under all guards."""
        return Prune(
            action=PruneAction.APPLY,
            source=source,
            guards=self._rules.guards,
            confirmed=frozenset(),
            order_digest=order_digest,
            undelete_s=self._rules.undelete_s,
        )

    async def _prune(
        self,
        mutation: PruneMutation,
        keys: Sequence[str],
        prune: Prune,
        content: list[object],
        commit: PruneCommit | None,
    ) -> Pruned:
        changes = tuple(DeleteMemory(key) for key in keys)
        if commit is None:
            return await self._committed(mutation, changes, prune, content)
        now_us = _now_us()
        along = Along(
            method=mutation.method,
            memories=self._writes(mutation, changes, now_us),
            content=content,
            prune=prune,
            audited_as=events.prune_result(self._rules.node_id),
        )
        with_it = Mutation(
            scope=mutation.scope,
            expected_version=commit.expected_version,
            request_id=mutation.request_id,
            metadata=commit.metadata,
            committer=mutation.committer,
            validate_only=mutation.validate_only,
            deadline=mutation.deadline,
        )
        done = await self._rho.commit(with_it, commit.updates, along=along)
        return replace(await self._pruned(mutation.scope, done.result), receipts=done.receipts)

    async def undo(self, mutation: PruneMutation, number: int) -> Pruned:
        """Makes what a prune deleted be there again. Raises InvalidRequest, NotFound, PruneNotUndoable, QuotaExceeded."""
        self._check(mutation)
        if number < 1:
            raise InvalidRequest(field="number", problem=f"is {number}; prunes are numbered from 1")
        undoable = await self._store.prunes.undoable(mutation.scope, number)
        if undoable is None:
            await self._check_audited(mutation.scope, number)
        # Without items it is refused, but for the same request again: that is answered as the first time.
        items = undoable.items if undoable else ()
        prune = Prune(
            action=PruneAction.UNDO,
            source=PruneSource.CALL,
            guards=None,
            confirmed=frozenset(),
            order_digest=prunes.digest_of(items),
            undelete_s=self._rules.undelete_s,
            undo_of=number,
        )
        changes = tuple(RestoreMemory(item.key, item.revision) for item in items)
        return await self._committed(mutation, changes, prune, ["undo", number])

    async def _check_audited(self, scope: Scope, number: int) -> None:
        found = await self._store.prunes.audits(scope, after=number - 1, limit=1)
        if not found or found[0].number != number or prunes.is_undoing(found[0]):
            raise NotFound(what="prune", namespace=scope.namespace, names=(str(number),))

    async def _committed(
        self,
        mutation: PruneMutation,
        changes: tuple[DeleteMemory, ...] | tuple[RestoreMemory, ...],
        prune: Prune,
        content: list[object],
    ) -> Pruned:
        now_us = _now_us()
        asked = hashlib.sha256(repr(content).encode()).digest()
        transaction = Transaction.of_memories(
            mutation.scope,
            self._writes(mutation, changes, now_us),
            now_us,
            request=RequestIdentity(mutation.method, mutation.request_id, asked) if mutation.request_id else None,
            committer=mutation.committer,
            deadline=mutation.deadline,
            validate_only=mutation.validate_only,
            prune=prune,
            audited_as=events.prune_result(self._rules.node_id),
        )
        return await self._pruned(mutation.scope, await self._commits.commit(transaction))

    def _writes(
        self, mutation: PruneMutation, changes: tuple[DeleteMemory, ...] | tuple[RestoreMemory, ...], now_us: int
    ) -> MemoryWrites:
        return MemoryWrites(changes, events.memory_event(self._rules.node_id, mutation.scope, now_us))

    async def _pruned(self, scope: Scope, result: CommitResult) -> Pruned:
        if result.audit is not None:
            return Pruned(result.audit, replayed=False)
        (audit,) = await self._store.prunes.audits(scope, after=result.audit_number - 1, limit=1)
        return Pruned(audit, replayed=True)

    # ---- what was done, limits

    async def audits(self, scope: Scope, after: int, page_size: int) -> Sequence[PruneAudit]:
        """What was done after a number. Raises InvalidRequest, StoreUnavailable."""
        names.check_name(scope.namespace, "namespace")
        if after < 0:
            raise InvalidRequest(field="after", problem=f"is {after}; it must be 0 or more")
        return await self._store.prunes.audits(scope, after=after, limit=pages.size(page_size, self._rules.page_size_max))

    async def limit(self, scope: Scope) -> Space:
        """The namespace, which has its limit. Raises InvalidRequest, NotFound, StoreUnavailable."""
        names.check_name(scope.namespace, "namespace")
        return await self._store.prunes.space(scope, _now_us())

    async def set_limit(self, scope: Scope, memories_max: int, policy: LimitPolicy) -> Space:
        """Sets it. Raises InvalidRequest, NotFound, StoreUnavailable."""
        names.check_name(scope.namespace, "namespace")
        if memories_max < 0:
            raise InvalidRequest(field="memories_max", problem=f"is {memories_max}; it must be 0 or more")
        return await self._store.prunes.set_limit(scope, MemoryLimit(memories_max, policy), _now_us())

    # ---- checks

    def _check(self, mutation: PruneMutation) -> None:
        names.check_name(mutation.scope.namespace, "namespace")
        names.check_request_id(mutation.request_id)

    def _checked_keys(self, keys: Sequence[str], field: str) -> list[str]:
        """Each once, in their order. Raises InvalidRequest, LimitExceeded."""
        names.check_each(keys, field, "prune_order_max", self._rules.order_max)
        return list(dict.fromkeys(keys))


def _plan_id(mutation: PruneMutation, order: Order) -> str:
    """The same for the same request; an order that came as a message is one, whoever it says orders it."""
    if not mutation.request_id:
        return secrets.token_hex(16)
    scope, whose = mutation.scope, "" if order.source is PruneSource.MESSAGE else mutation.committer
    said = repr([scope.tenant, scope.namespace, mutation.method, whose, mutation.request_id])
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def _check_same(kept: PrunePlan, order_digest: bytes, mutation: PruneMutation) -> None:
    """Raises RequestIdReused for a plan of something else."""
    if kept.order_digest != order_digest:
        raise RequestIdReused(
            namespace=mutation.scope.namespace, reused_id=mutation.request_id, first_time_us=kept.create_time_us
        )


def _token(plan: PrunePlan, committer: str, guards: frozenset[str]) -> str:
    """What confirms a plan for one caller who was shown that these guards trip: bound to all three; "": none trips."""
    if not guards:
        return ""
    said = repr([plan.digest, committer, sorted(guards)]).encode()
    return hmac.new(plan.secret, said, hashlib.sha256).hexdigest()[:32]


def _confirmed(plan: PrunePlan, committer: str, token: str) -> frozenset[str]:
    """The guards that a token was told of. Raises PruneTokenInvalid for one that is none of this caller's for this plan."""
    if not token:
        return frozenset()
    for count in range(1, len(prunes.GUARDS) + 1):
        for guards in map(frozenset, itertools.combinations(prunes.GUARDS, count)):
            if hmac.compare_digest(token.encode(), _token(plan, committer, guards).encode()):
                return guards
    raise PruneTokenInvalid(namespace=plan.scope.namespace, plan_id=plan.plan_id, committer=committer)


def _digest_of(asked: object) -> bytes:
    said = list(asked) if isinstance(asked, Sequence) else asked
    return hashlib.sha256(repr(said).encode()).digest()


def _before(tokens: PageTokens, page_token: str) -> tuple[int, str] | None:
    match tokens.place(page_token):
        case None:
            return None
        case [int() as time_us, str() as plan_id] if 0 < time_us < 1 << 63:
            return time_us, plan_id
    raise pages.not_of_this_list()


def _now_us() -> int:
    return time.time_ns() // 1000
