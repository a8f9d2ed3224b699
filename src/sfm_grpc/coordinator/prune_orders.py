"""Orders to prune that come as messages: each carried out once, or waiting as a plan, or put aside with the reason.

An order's id is the request id under which its transaction commits, so whoever gets it a second time (after a crash, from a
producer that sends twice, in another process) finds that it is done. Its message is done after that. What another attempt may
mend is tried until it is mended, and what follows it waits; what none mends goes to the refused ones.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from sfm_grpc.coordinator import prune_messages
from sfm_grpc.coordinator.presence import Component
from sfm_grpc.coordinator.prune_messages import OrderMessage
from sfm_grpc.coordinator.pruner import Order, PruneCoordinator, PruneMutation
from sfm_grpc.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    LimitExceeded,
    PruneConfirmationRequired,
    RequestIdReused,
    SfmError,
)
from sfm_grpc.metrics import OrderMetrics
from sfm_grpc.model import PruneSource
from sfm_grpc.storage.events.contract import Inbox, InboxUnavailable, Message

_log = logging.getLogger(__name__)

METHOD = "prune.order"
"""Of the request ids that orders have."""

_RETRY_MIN_S, _RETRY_MAX_S = 0.1, 5.0
# How often the inbox is asked how it is.
_LOOK_S = 5.0
# What nobody foresaw is tried so often: it must not hold up for ever what follows.
_UNFORESEEN_MAX = 5
# A message that is longer is read on a thread.
_LARGE_BYTES = 256 * 1024
# Characters of a header: a message may be wrong at any length.
_TOLD_MAX = 1_000
_NOT_ASKED = "not asked yet"


@dataclass(frozen=True, slots=True)
class OrderRules:
    """The bounds that orders are held to."""

    apply_s: float
    """How long one attempt may take."""
    remembered_s: float
    """How long the store knows that an order was carried out."""
    message_bytes_max: int


class PruneOrders:
    """One process's part in carrying out orders, one after the other."""

    def __init__(self, pruner: PruneCoordinator, inbox: Inbox, metrics: OrderMetrics, rules: OrderRules) -> None:
        self._pruner = pruner
        self._inbox = inbox
        self._metrics = metrics
        self._rules = rules
        self._looked_s = -math.inf
        self._component = Component(inbox.name, ok=False, detail=_NOT_ASKED, needed=False)

    def component(self) -> Component:
        """How orders come in, as a part that no caller needs."""
        return self._component

    async def run(self) -> None:
        """Works until it is cancelled."""
        message: Message | None = None
        while True:
            try:
                if message is None:
                    if time.monotonic() - self._looked_s >= _LOOK_S:
                        await self._look()
                    message = await self._inbox.next()
                if message is not None:
                    await self.handle(message)
                    message = None
            except InboxUnavailable as error:
                self._set(ok=False, detail=str(error))
                await asyncio.sleep(_RETRY_MIN_S)
            except Exception:  # whatever is wrong just now, orders must not lie there for ever
                _log.exception("taking orders failed")
                await asyncio.sleep(_RETRY_MAX_S)

    async def handle(self, message: Message) -> None:
        """Returns when the message is done, or is another process's by now."""
        error = await self._settled(message)
        if error is not None:
            await self._refuse(message, error)
        try:
            if self._inbox.has(message):
                await self._inbox.done(message)
        except InboxUnavailable as unavailable:
            _log.info("the order of %s is done, and may come again: %s", _place(message), unavailable)

    # ---- carrying out

    async def _settled(self, message: Message) -> SfmError | None:
        """Tries until no other attempt is needed; why it is refused, or None: it is done, waits as a plan, or is another's."""
        tries = unforeseen = 0
        while self._inbox.has(message):
            try:
                await self._carry_out(message)
                return None
            except SfmError as error:
                if not _may_mend(error):
                    return error
                detail = str(error)
            except Exception:  # a defect: other orders must not wait for its repair
                unforeseen += 1
                _log.exception("the order of %s failed", _place(message))
                if unforeseen >= _UNFORESEEN_MAX:
                    return InternalError(request_id=_place(message))
                detail = "an attempt failed; the log says why"
            tries += 1
            self._metrics.retried.inc()
            await self._wait(tries, f"the order of {_place(message)} waits: {detail}")
        return None

    async def _carry_out(self, message: Message) -> None:
        """Raises what refuses it, and what another attempt may mend."""
        said = await self._read(message)
        mutation = PruneMutation(METHOD, said.scope, said.order_id, said.committer, time.monotonic() + self._rules.apply_s)
        order = Order(said.keys, source=PruneSource.MESSAGE, order_id=said.order_id)
        # Once it waits it is never applied from here: somebody may have confirmed it, or be about to.
        if (plan := await self._pruner.planned_before(mutation, order)) is not None:
            if said.commit is not None:
                raise RequestIdReused(
                    namespace=said.scope.namespace, reused_id=said.order_id, first_time_us=plan.create_time_us, field="order_id"
                )
            return self._count("known")
        try:
            done = await self._pruner.apply_order(mutation, order, said.commit)
        except PruneConfirmationRequired as error:
            if said.commit is not None:
                # A plan keeps no matrices: confirmed, it would leave a ρ that still contains what went.
                raise
            planned = await self._pruner.plan(mutation, order)
            _log.warning("order %r waits as plan %s: %s", said.order_id, planned.plan.plan_id, error)
            return self._count("waiting")
        return self._count("known" if done.replayed else "applied")

    async def _read(self, message: Message) -> OrderMessage:
        """Raises InvalidRequest, LimitExceeded."""
        size, age_s = len(message.value or b""), _age_s(message)
        if size > self._rules.message_bytes_max:
            raise LimitExceeded(limit="message_bytes_max", value=size, maximum=self._rules.message_bytes_max, field="value")
        if age_s >= self._rules.remembered_s:
            problem = f"is {age_s:.0f} s old; whether it was carried out is remembered for {self._rules.remembered_s:.0f} s"
            raise InvalidRequest(field="timestamp", problem=f"{problem}: look, and order again under another order_id")
        if size > _LARGE_BYTES:
            return await asyncio.to_thread(prune_messages.read, message.value)
        return prune_messages.read(message.value)

    def _count(self, outcome: str) -> None:
        self._metrics.done.labels(outcome).inc()

    # ---- refusing

    async def _refuse(self, message: Message, error: SfmError) -> None:
        """Puts it aside, however long that takes: nothing is passed over."""
        why = {
            "sfm-reason": error.reason,
            "sfm-problem": _problem(error)[:_TOLD_MAX],
            "sfm-field": error.field_path[:_TOLD_MAX],
            "sfm-topic": message.topic,
            "sfm-partition": str(message.partition),
            "sfm-offset": str(message.offset),
            "sfm-time": datetime.now(UTC).isoformat(),
        }
        tries = 0
        while self._inbox.has(message):
            try:
                await self._inbox.refuse(message, why)
            except InboxUnavailable as unavailable:
                tries += 1
                await self._wait(tries, f"a refused order of {_place(message)} waits: {unavailable}")
                continue
            self._count("refused")
            _log.warning("the order of %s is refused (%s): %s", _place(message), error.reason, why["sfm-problem"])
            return

    # ---- how it is

    async def _wait(self, tries: int, detail: str) -> None:
        """Before the next attempt; the message stays in hand."""
        self._set(ok=False, detail=detail)
        pause_s = min(_RETRY_MAX_S, _RETRY_MIN_S * 2.0 ** min(tries - 1, 10))
        try:
            await self._inbox.hold(pause_s)
        except InboxUnavailable:  # what is in hand needs no inbox
            await asyncio.sleep(pause_s)
        self._looked_s = -math.inf

    async def _look(self) -> None:
        self._looked_s = time.monotonic()
        found = await self._inbox.check()
        self._metrics.waiting.set(found.waiting)
        self._set(ok=True, detail=found.detail)

    def _set(self, *, ok: bool, detail: str) -> None:
        self._metrics.ok.set(ok)
        before, self._component = self._component, Component(self._inbox.name, ok=ok, detail=detail, needed=False)
        if not ok and (before.ok or before.detail == _NOT_ASKED):
            _log.warning("orders wait: %s", detail)
        elif ok and not before.ok:
            _log.info("orders are taken from %s", detail)


def _may_mend(error: SfmError) -> bool:
    """Whether the same order may succeed a little later."""
    return error.retry_delay_s is not None or isinstance(error, DeadlineExceeded)


def _problem(error: SfmError) -> str:
    if isinstance(error, PruneConfirmationRequired):
        return f"{error}. An order that carries matrices does not wait as a plan, which would keep none of them"
    return str(error)


def _age_s(message: Message) -> float:
    return time.time() - message.time_us / 1e6 if message.time_us is not None else 0.0


def _place(message: Message) -> str:
    return f"{message.topic}/{message.partition}@{message.offset}"
