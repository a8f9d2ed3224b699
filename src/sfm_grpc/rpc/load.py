"""What the server has taken on, and what it refuses for that before any work begins: one class that the guard asks.

Bounded are the calls that are worked on, the bytes of their requests, the bytes of answers until gRPC has handed them to the
network, and how long calls wait for their turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sfm_grpc.errors import Draining, Overloaded
from sfm_grpc.metrics import Metrics
from sfm_grpc.rpc.caller import Context
from sfm_grpc.rpc.errors import status_of
from sfm_grpc.rpc.waiting import Lateness, Queue

# A message of less is bounded well enough by how many calls there are.
LARGE_BYTES = 64 * 1024

# How often the loop is asked how late it is, and for how long it must be, or calls must wait, until calls are shed: two looks.
_TICK_S = 0.04
_INTERVAL_S = 0.035

# A loop that came round on time and had fewer calls than this to begin keeps nobody waiting.
_ON_TIME_S = 0.005
_FEW_CALLS = 3

# Come again after this, or up to three times as long: those refused together come back apart. While calls are shed it grows
# with every tick, since whoever comes back too early costs the server three quarters of a small read.
_RETRY_S, _RETRY_MAX_S = 0.1, 2.0
_RETRY_SPREAD = 3.0
_RETRY_RISE, _RETRY_FALL = 1.1, 0.99

# Refusals that are ready while calls are shed.
_REFUSALS = 16


@dataclass(frozen=True, slots=True)
class LoadRules:
    """How much at once."""

    calls_max: int
    request_bytes_max: int
    answer_bytes_max: int
    wait_max_s: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error, and its google.rpc.Status as bytes."""

    error: Overloaded
    details: bytes


class Load:
    """Counts on the event loop alone, so without locks."""

    def __init__(self, rules: LoadRules, metrics: Metrics) -> None:
        self._rules = rules
        self._calls = 0
        self._request_bytes = 0
        self._answer_bytes = 0
        self._lag_s = 0.0
        self.waited_s = 0.0
        """How long calls that begin now have waited before."""
        self.taken = 0
        """Calls taken over from gRPC since the start, of any kind."""
        self._lateness = Lateness(rules.wait_max_s, _INTERVAL_S)
        self._retry_s = _RETRY_S
        self._refusals: deque[Refusal] = deque(maxlen=_REFUSALS)
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        metrics.calls_in_flight.set_function(lambda: self._calls)
        metrics.bytes_in_flight.set_function(lambda: self._request_bytes)
        metrics.answer_bytes_in_flight.set_function(lambda: self._answer_bytes)
        metrics.loop_lag.set_function(lambda: self._lag_s)
        metrics.call_wait.set_function(lambda: self.waited_s)
        metrics.shedding.set_function(lambda: self._lateness.lasting)

    # ---- calls

    def begin(self, request_bytes: int) -> None:
        """Counts a call; `end` takes it back, with the same bytes."""
        self._idle.clear()
        self._calls += 1
        self._request_bytes += request_bytes

    def end(self, request_bytes: int) -> None:
        """A call that had begun is over, and what it had others do."""
        self._calls -= 1
        self._request_bytes -= request_bytes
        if self._calls == 0:
            self._idle.set()

    def check(self, request_bytes: int) -> None:
        """Whether the call that has just begun may go on. Raises Draining, Overloaded."""
        if self._draining:
            raise Draining
        rules = self._rules
        if self._calls > rules.calls_max:
            raise self._over("concurrent_rpcs_max", self._calls, rules.calls_max)
        # Alone, even the largest message that is received fits.
        if self._request_bytes > rules.request_bytes_max and self._request_bytes > request_bytes:
            raise self._over("inflight_bytes_max", self._request_bytes, rules.request_bytes_max)

    def answer(self, answer_bytes: int, context: Context, *, refusable: bool) -> None:
        """Counts an answer until its last byte is in the network's hands, or its call is gone. Raises Overloaded.

        Not `refusable` is the answer that tells what was done: whoever does not get it would do it again.
        """
        if answer_bytes < LARGE_BYTES:
            return
        ahead, most = self._answer_bytes, self._rules.answer_bytes_max
        # Alone, even the largest answer passes.
        if refusable and ahead and ahead + answer_bytes > most:
            raise self._over("inflight_answer_bytes_max", ahead + answer_bytes, most)
        self._answer_bytes += answer_bytes

        def sent(_: Context) -> None:
            self._answer_bytes -= answer_bytes

        context.add_done_callback(sent)  # type: ignore[arg-type]  # the stubs have it twice, and differently

    def _over(self, limit: str, value: int, maximum: int) -> Overloaded:
        again_s = self._retry_s * random.uniform(1.0, _RETRY_SPREAD)  # noqa: S311  # to spread, not to hide
        return Overloaded(limit=limit, value=value, maximum=maximum, retry_after_s=round(again_s, 3))

    async def drain(self, within_s: float) -> None:
        """Refuses what is new from now on; returns when what was in flight is answered, or after `within_s`."""
        self._draining = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), within_s)

    # ---- lateness

    @property
    def shedding(self) -> bool:
        """New calls are to be refused with `refusal`, except those about the server itself."""
        return self._lateness.lasting and not self._draining

    def refusal(self) -> Refusal:
        """The answer to a call while `shedding`, made before it came: each of several in turn, that say different delays."""
        self._refusals.rotate()
        return self._refusals[0]

    async def watch(self, received: Callable[[], int]) -> None:
        """Looks for ever how late the loop is, and how long calls wait; `received` counts those that gRPC has."""
        queue = Queue(received)
        while True:
            due, taken = time.monotonic() + _TICK_S, self.taken
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            self._lag_s = max(0.0, now - due)
            # To ask gRPC takes as long as to answer a small read.
            at_ease = self._lag_s < _ON_TIME_S and self.taken - taken < _FEW_CALLS
            self.waited_s = queue.none() if at_ease else queue.oldest_s(self.taken, now)
            self._look(now)

    def _look(self, now: float) -> None:
        late_s = max(self._lag_s, self.waited_s)
        self._lateness.note(late_s, now)
        if not self._lateness.lasting:
            self._retry_s = max(_RETRY_S, self._retry_s * _RETRY_FALL)
            self._refusals.clear()
            return
        self._retry_s = min(_RETRY_MAX_S, self._retry_s * _RETRY_RISE)
        for _ in range(max(1, _REFUSALS - len(self._refusals))):
            error = self._over("shed_wait_ms", round(late_s * 1000), round(self._rules.wait_max_s * 1000))
            self._refusals.append(Refusal(error, status_of(error).SerializeToString()))
