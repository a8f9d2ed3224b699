"""How every ρ is: from certificates when they are committed, from a re-reading of the stored numbers afterwards.

A question costs nothing in the size of ρ: what is told was found before it was asked.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

from sfm_grpc.density.admission import verify
from sfm_grpc.errors import NotFound, RhoCorrupt, StoreUnavailable, VersionCompacted
from sfm_grpc.metrics import Metrics
from sfm_grpc.model import Certificate, Entry, Kind, Matrix, Scope, Transaction, Version
from sfm_grpc.storage.contract import Store

_log = logging.getLogger(__name__)

WORST_SHOWN = 20
_HEADS_AT_ONCE = 500
_MANY = 1000


@dataclass(frozen=True, slots=True)
class RhoState:
    """What is known of one namespace's head."""

    scope: Scope
    version: Version
    verify_time_us: int = 0
    """When its stored numbers were last read and proved again; 0: not yet."""
    problems: dict[bytes, str] = field(default_factory=dict)
    """By digest: what is wrong with the stored numbers."""

    @property
    def certificates(self) -> list[Certificate]:
        """Those of its density matrices."""
        return [e.certificate for e in self.version.entries if e.certificate.kind is Kind.DENSITY]

    @property
    def corrupt(self) -> bool:
        """Stored numbers of the head fail their digest or their proof."""
        return any(e.certificate.digest in self.problems for e in self.version.entries)

    @property
    def psd_ok(self) -> bool:
        """Certified, and not contradicted since."""
        return all(c.psd_ok for c in self.certificates) and not self.corrupt

    @property
    def trace_ok(self) -> bool:
        """Within tolerance."""
        return all(c.trace_ok for c in self.certificates)

    @property
    def trace_error(self) -> float:
        """The largest."""
        return max((c.trace_error for c in self.certificates), default=0.0)

    @property
    def min_eigenvalue_bound(self) -> float:
        """The smallest."""
        return min((c.min_eigenvalue_bound for c in self.certificates), default=0.0)

    @property
    def ok(self) -> bool:
        """Nothing is wrong."""
        return self.psd_ok and self.trace_ok

    @property
    def problem(self) -> str:
        """What is wrong, in words; '' when nothing is."""
        words = [
            f"{e.key}: {self.problems[e.certificate.digest]}"
            for e in self.version.entries
            if e.certificate.digest in self.problems
        ]
        for entry in self.version.entries:
            c = entry.certificate
            if c.kind is Kind.DENSITY and not c.psd_ok:
                words.append(f"{entry.key}: λ_min bound {c.min_eigenvalue_bound:.6g} < −{c.epsilon:.3g}")
            if c.kind is Kind.DENSITY and not c.trace_ok:
                words.append(f"{entry.key}: |tr ρ − 1| = {c.trace_error:.3g} > {c.trace_tolerance:.3g}")
        return "; ".join(words)


@dataclass(frozen=True, slots=True)
class RhoReport:
    """All namespaces at once: the worst speak for all."""

    namespaces: int
    psd_ok: bool
    trace_ok: bool
    trace_error: float
    sample_version: int
    """The newest version of the worst namespace; 0 while there is no ρ."""
    corrupt: int
    worst: Sequence[RhoState]

    @property
    def ok(self) -> bool:
        """No ρ violates its bounds."""
        return self.psd_ok and self.trace_ok


class RhoHealth:
    """Knows every namespace's head, and keeps proving the stored numbers again."""

    def __init__(self, store: Store, threads: Executor, metrics: Metrics) -> None:
        self._store = store
        self._threads = threads
        self._verified = metrics.verifications
        self._states: dict[Scope, RhoState] = {}
        self._wrong: set[Scope] = set()
        self._report: RhoReport | None = None
        self._reported_s = 0.0
        self._changed = True
        self._listeners: list[Callable[[bool], None]] = []
        self.verifications = 0
        metrics.rho_psd_ok.set_function(lambda: self.report().psd_ok)
        metrics.rho_trace_error.set_function(lambda: self.report().trace_error)
        metrics.namespaces.set_function(lambda: self.report().namespaces)
        metrics.corrupt.set_function(lambda: self.report().corrupt)

    def on_change(self, listener: Callable[[bool], None]) -> None:
        """Calls `listener` when ρ as a whole turns right or wrong."""
        self._listeners.append(listener)

    @property
    def ok(self) -> bool:
        """No ρ violates its bounds."""
        return not self._wrong

    # ---- what is known

    def state(self, scope: Scope) -> RhoState | None:
        """One namespace."""
        return self._states.get(scope)

    def states_named(self, namespace: str) -> list[RhoState]:
        """The namespaces of this name, of any tenant."""
        return [s for scope, s in self._states.items() if scope.namespace == namespace]

    def report(self) -> RhoReport:
        """All of them. Where there are many, counted at most once a second; a ρ that turns wrong shows at once."""
        now = time.monotonic()
        many = len(self._states) > _MANY
        if self._report is None or (self._changed and (not many or now - self._reported_s > 1.0)):
            self._changed, self._reported_s = False, now
            states = self._states.values()
            worst = heapq.nsmallest(WORST_SHOWN, states, key=lambda s: (s.ok, -s.trace_error, s.min_eigenvalue_bound))
            self._report = RhoReport(
                namespaces=len(self._states),
                psd_ok=all(s.psd_ok for s in states),
                trace_ok=all(s.trace_ok for s in states),
                trace_error=max((s.trace_error for s in states), default=0.0),
                sample_version=worst[0].version.version if worst else 0,
                corrupt=sum(s.corrupt for s in states),
                worst=worst,
            )
        return self._report

    # ---- what is learned

    def committed(self, scope: Scope, version: Version, _transaction: Transaction) -> None:
        """A commit's certificates: its listener."""
        self._learn(scope, version)

    def found_corrupt(self, scope: Scope, error: RhoCorrupt) -> None:
        """A read met numbers that fail their digest."""
        state = self._states.get(scope)
        if state is not None:
            self._set(replace(state, problems=state.problems | {bytes.fromhex(error.expected_digest): error.sentence()}))

    def _learn(self, scope: Scope, version: Version) -> RhoState:
        old = self._states.get(scope)
        if old is not None and old.version.version >= version.version:
            return old
        # Numbers that a commit did not change are as wrong as they were.
        held = {e.certificate.digest for e in version.entries}
        problems = {d: text for d, text in old.problems.items() if d in held} if old else {}
        state = RhoState(scope, version, problems=problems)
        self._set(state)
        return state

    def _set(self, state: RhoState) -> None:
        was_ok = self.ok
        self._states[state.scope] = state
        self._changed = True
        if (state.scope in self._wrong) is not state.ok:
            return
        # It turned: right or wrong.
        self._report = None
        if state.ok:
            self._wrong.discard(state.scope)
            _log.info("ρ of %r (tenant %r) is right again at version %d", *_named(state), state.version.version)
        else:
            self._wrong.add(state.scope)
            _log.error("ρ of %r (tenant %r) is wrong at version %d: %s", *_named(state), state.version.version, state.problem)
        if self.ok is not was_ok:
            for listener in self._listeners:
                listener(self.ok)

    # ---- proving again

    async def verify_all(self) -> None:
        """Reads every head's stored numbers again and proves them again. Raises StoreUnavailable."""
        after: Scope | None = None
        while True:
            heads = await self._store.heads(after=after, limit=_HEADS_AT_ONCE)
            for scope, version in heads:
                self._learn(scope, version)
                await self._verify(scope)
            if len(heads) < _HEADS_AT_ONCE:
                break
            after = heads[-1][0]

    async def load(self) -> None:
        """Learns every head from its certificates, without its numbers: the start. Raises StoreUnavailable."""
        after: Scope | None = None
        while True:
            heads = await self._store.heads(after=after, limit=_HEADS_AT_ONCE)
            for scope, version in heads:
                self._learn(scope, version)
            if len(heads) < _HEADS_AT_ONCE:
                break
            after = heads[-1][0]

    async def _verify(self, scope: Scope) -> None:
        """One namespace's head, key by key, as it is when this begins."""
        state = self._states[scope]
        problems: dict[bytes, str] = {}
        for entry in state.version.entries:
            problem = await self._problem(scope, state.version.version, entry)
            if problem is None:  # the version went meanwhile
                return
            self.verifications += 1
            self._verified.inc()
            if problem:
                problems[entry.certificate.digest] = problem
        current = self._states[scope]
        if current.version.version == state.version.version:
            self._set(replace(current, verify_time_us=time.time_ns() // 1000, problems=problems))

    async def _problem(self, scope: Scope, version: int, entry: Entry) -> str | None:
        try:
            reading = await self._store.read(scope, number=version, keys=(entry.key,))
        except RhoCorrupt as error:
            return error.sentence()
        except (NotFound, VersionCompacted):
            return None
        c = entry.certificate
        numbers = reading.numbers.get(c.digest)
        if numbers is None:
            return f"the stored certificate of {entry.key!r} changed"
        matrix = Matrix(kind=c.kind, layout=c.layout, dtype=c.dtype, shape=c.shape, numbers=numbers)
        return await asyncio.get_running_loop().run_in_executor(self._threads, verify, matrix, c)

    async def watch(self, interval_s: float) -> None:
        """Verifies again and again; never returns."""
        while True:
            try:
                await self.verify_all()
            except StoreUnavailable as error:
                _log.warning("re-verification waits for the store: %s", error)
            except Exception:  # whatever is wrong with what is stored, looking must go on
                _log.exception("re-verification failed")
            await asyncio.sleep(interval_s)


def _named(state: RhoState) -> tuple[str, str]:
    return state.scope.namespace, state.scope.tenant
