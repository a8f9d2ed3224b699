"""The operational truth in one record: what probes, people and Prometheus are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sfm_grpc.coordinator.health import RhoHealth, RhoReport, RhoState
from sfm_grpc.coordinator.presence import Component, Presence
from sfm_grpc.coordinator.reads import Reads
from sfm_grpc.metrics import LatencyWindow
from sfm_grpc.model import Scope


@dataclass(frozen=True, slots=True)
class Latency:
    """The measured p95 of one kind of call."""

    operation: str
    p95_s: float
    count: int
    bound_s: float
    window_s: float

    @property
    def ok(self) -> bool:
        """Within the bound, or nothing to measure."""
        return self.p95_s <= self.bound_s


@dataclass(frozen=True, slots=True)
class Report:
    """How the server is."""

    ready: bool
    degraded: bool
    rho: RhoReport
    shown: Sequence[RhoState]
    components: Sequence[Component]
    latencies: Sequence[Latency]
    start_time_us: int
    verifications: int

    @property
    def ok(self) -> bool:
        """Ready, every ρ is as it must be, and all that the report stands on works."""
        return self.ready and self.rho.ok and all(c.ok for c in self.components if c.needed)


class Truth:
    """Puts the report together. Nothing in it waits: the store's state is what the last check found."""

    def __init__(
        self,
        store: Presence,
        rho: RhoHealth,
        reads: Reads,
        windows: dict[str, LatencyWindow],
        *,
        latency_bound_s: float,
        parts: Sequence[Callable[[], Component]],
    ) -> None:
        """`parts`: how others are on which this server stands."""
        self._store = store
        self._parts = parts
        self._rho = rho
        self._reads = reads
        self._windows = windows
        self._bound_s = latency_bound_s
        self._start_time_us = time.time_ns() // 1000
        self.draining = False

    @property
    def ready(self) -> bool:
        """The canonical store answers and the server is not draining."""
        return self._store.ok and not self.draining

    def report(self, scope: Scope | None = None) -> Report:
        """The report; with a namespace, that one's detail instead of the worst ones'."""
        rho = self._rho.report()
        state = self._rho.state(scope) if scope else None
        return Report(
            ready=self.ready,
            degraded=self._reads.degraded,
            rho=rho,
            shown=rho.worst if scope is None else [state] if state else [],
            components=(self._store.component, self._verification(), *(part() for part in self._parts)),
            latencies=[self._latency(name, window) for name, window in self._windows.items()],
            start_time_us=self._start_time_us,
            verifications=self._rho.verifications,
        )

    def _verification(self) -> Component:
        problem = self._rho.verify_problem
        return Component("verification", ok=not problem, detail=problem or "stored numbers are read and proved again")

    def _latency(self, operation: str, window: LatencyWindow) -> Latency:
        p95_s, count = window.p95()
        return Latency(operation, p95_s, count, self._bound_s, window.window_s)
