"""How every ρ is: from certificates when they are committed, from a re-reading of the stored numbers afterwards.

A question costs nothing in the size of ρ: what is told was found before it was asked.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace

from sfm_grpc.coordinator.worst import WorstFirst
from sfm_grpc.density.admission import verify
from sfm_grpc.errors import NotFound, Overloaded, RhoCorrupt, SfmError, StoreUnavailable, VersionCompacted
from sfm_grpc.metrics import Metrics
from sfm_grpc.model import Certificate, Entry, Kind, Matrix, Scope, Transaction, Version
from sfm_grpc.storage.contract import Store
from sfm_grpc.storage.in_process import is_same_commit

_log = logging.getLogger(__name__)

WORST_SHOWN = 20
_HEADS_AT_ONCE = 500
# How soon to look again for a store that is away: what is told of it must not outlast it.
_WAITING_S = 2.0
# How soon what another server committed is known.
_FOLLOW_S = 3.0


@dataclass(frozen=True, slots=True)
class RhoState:
    """What is known of one namespace's head."""

    scope: Scope
    version: Version
    verify_time_us: int = 0
    """When its stored numbers were last read and proved again; 0: not yet."""
    problems: dict[bytes, str] = field(default_factory=dict)
    """By digest: what is wrong with the stored numbers."""
    unseen: frozenset[bytes] = frozenset()
    """The digests whose numbers this process has neither committed nor read."""
    learned_s: float = 0.0
    """When this version was learned, on time.monotonic(): a look that was asked later knows better, whatever it found."""

    @property
    def certificates(self) -> list[Certificate]:
        """Those of its density matrices."""
        return [e.certificate for e in self.version.entries if e.certificate.kind is Kind.DENSITY]

    @property
    def corrupt(self) -> bool:
        """Stored numbers of the head fail their digest or their proof, or its record cannot be read."""
        return bool(self.version.unreadable) or any(e.certificate.digest in self.problems for e in self.version.entries)

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
        if self.version.unreadable:
            words.insert(0, f"the stored record of version {self.version.version} cannot be read ({self.version.unreadable})")
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
    wrong: int
    """Namespaces that are not ok, for whatever reason."""
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
        self._wrong: WorstFirst[Scope] = WorstFirst()
        self._right: WorstFirst[Scope] = WorstFirst()
        self._counted: dict[Scope, tuple[bool, bool, bool]] = {}
        """Of each wrong namespace: whether PSD fails, the trace fails, it is corrupt."""
        self._counts = [0, 0, 0]
        """How many of each."""
        self._report: RhoReport | None = None
        self._listeners: list[Callable[[bool], None]] = []
        self.verifications = 0
        self.verify_problem = ""
        """Why the last re-verification could not look at everything; '' when it did."""
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
        return not self._counted

    # ---- what is known

    def state(self, scope: Scope) -> RhoState | None:
        """One namespace."""
        return self._states.get(scope)

    def is_whole(self, scope: Scope) -> bool:
        """All that the namespace's head holds was committed or read again by this process, and is what was committed.

        That ρ violates its bounds (`observe` lets it in) is another matter: such a head is whole.
        """
        state = self._states.get(scope)
        return state is not None and not state.corrupt and not state.unseen

    def report(self) -> RhoReport:
        """All of them, from what is counted as they change: it costs the same however many there are."""
        if self._report is None:
            wrong, right = self._wrong.first(WORST_SHOWN), self._right.first(WORST_SHOWN)
            worst = [self._states[scope] for scope in (wrong + right)[:WORST_SHOWN]]
            # Each begins with its largest trace error.
            largest = [self._states[scope].trace_error for scope in wrong[:1] + right[:1]]
            not_psd, off_trace, corrupt = self._counts
            self._report = RhoReport(
                namespaces=len(self._states),
                psd_ok=not not_psd,
                trace_ok=not off_trace,
                trace_error=max(largest, default=0.0),
                sample_version=worst[0].version.version if worst else 0,
                wrong=len(self._counted),
                corrupt=corrupt,
                worst=worst,
            )
        return self._report

    # ---- what is learned

    def committed(self, scope: Scope, version: Version, _transaction: Transaction) -> None:
        """A commit's certificates: its listener."""
        self._learn(scope, version, put_here=True)

    def found_corrupt(self, scope: Scope, error: RhoCorrupt) -> None:
        """A read met numbers that fail their digest, or a record that cannot be read."""
        state = self._states.get(scope)
        if state is None:
            return
        if error.damaged != "version":
            self._set(replace(state, problems=state.problems | {bytes.fromhex(error.expected_digest): error.sentence()}))
        elif error.version == state.version.version and not state.version.unreadable:
            self._set(replace(state, version=replace(state.version, unreadable="a read met it")))

    def _learn(self, scope: Scope, version: Version, *, asked_s: float = -math.inf, put_here: bool = False) -> None:
        """Takes note of a head, unless it is known. `put_here`: this process wrote the numbers that it put.

        A look says when it was asked; one asked after the known head was learned is right, also where that head is gone: its
        history was replaced, by a backup or a standby. One asked before may only be late, and so may be the word of a commit.
        """
        old = self._states.get(scope)
        if old is not None and is_same_commit(old.version, version):
            if old.version.unreadable != version.unreadable:
                self._set(replace(old, version=version))
            return
        if old is not None and old.version.version >= version.version:
            if asked_s < old.learned_s:
                return
            _warn_replaced(old, f"is at version {version.version}")
            old = None  # nothing that was found out about the one says anything of the other
        # Numbers that a commit did not put are as wrong, or as little known, as they were.
        held = {e.certificate.digest for e in version.entries if e.put_version != version.version}
        put = {e.certificate.digest for e in version.entries if e.put_version == version.version}
        problems = {d: text for d, text in old.problems.items() if d in held} if old else {}
        unseen = held & old.unseen if old and put_here else held
        unseen = unseen if put_here else unseen | put
        self._set(RhoState(scope, version, problems=problems, unseen=frozenset(unseen), learned_s=time.monotonic()))

    def _set(self, state: RhoState) -> None:
        was_ok, scope = self.ok, state.scope
        turned = (scope in self._counted) is state.ok
        self._states[scope] = state
        self._count(state)
        self._report = None
        if not turned:
            return
        if state.ok:
            _log.info("ρ of %r (tenant %r) is right again at version %d", *_named(state), state.version.version)
        else:
            _log.error("ρ of %r (tenant %r) is wrong at version %d: %s", *_named(state), state.version.version, state.problem)
        self._tell(was_ok)

    def _lose(self, state: RhoState) -> None:
        """Forgets a namespace that is gone: its history was replaced by one that does not reach to its first commit."""
        was_ok = self.ok
        _warn_replaced(state, "is gone")
        del self._states[state.scope]
        self._uncount(state.scope)
        self._report = None
        self._tell(was_ok)

    def _tell(self, was_ok: bool) -> None:
        if self.ok is not was_ok:
            for listener in self._listeners:
                listener(self.ok)

    def _count(self, state: RhoState) -> None:
        self._uncount(state.scope)
        scope, rank = state.scope, (-state.trace_error, state.min_eigenvalue_bound)
        wrong = (not state.psd_ok, not state.trace_ok, state.corrupt)
        self._counts = [n + is_ for n, is_ in zip(self._counts, wrong, strict=True)]
        if any(wrong):
            self._counted[scope] = wrong
            self._wrong.put(scope, rank)
        else:
            self._right.put(scope, rank)

    def _uncount(self, scope: Scope) -> None:
        wrong = self._counted.pop(scope, (False, False, False))
        self._counts = [n - was for n, was in zip(self._counts, wrong, strict=True)]
        self._wrong.drop(scope)
        self._right.drop(scope)

    # ---- proving again

    async def verify_all(self, *, pause_max_s: float = 0.0) -> str:
        """Reads every head's stored numbers again and proves them again.

        After each namespace it pauses as long as that one took, at most `pause_max_s`: half of one core is the most it uses.
        Returns which namespaces could not be looked at, '' when all could: one that fails keeps nobody from the others.
        Raises StoreUnavailable when it cannot be told which there are.
        """
        failed: list[str] = []
        async for scope, version, asked_s in self._heads():
            begun = time.monotonic()
            try:
                self._learn(scope, version, asked_s=asked_s)
                await self._verify(scope)
            except Exception as error:  # whatever is wrong with one, the others must be looked at
                _log.warning("ρ of %r (tenant %r) could not be verified", scope.namespace, scope.tenant, exc_info=error)
                failed.append(f"{scope.namespace!r} of tenant {scope.tenant!r} ({_in_words(error)})")
            await asyncio.sleep(min(time.monotonic() - begun, pause_max_s))
        return f"{len(failed)} namespaces could not be read again, the first is {failed[0]}" if failed else ""

    async def load(self) -> None:
        """Learns every head from its certificates, without its numbers: the start. Raises StoreUnavailable."""
        async for scope, version, asked_s in self._heads():
            self._learn(scope, version, asked_s=asked_s)

    async def follow(self) -> None:
        """Learns what other servers commit, again and again; never returns. It takes a twentieth of the time at most."""
        took_s = 0.0
        while True:
            await asyncio.sleep(max(_FOLLOW_S, 20 * took_s))
            begun = time.monotonic()
            try:
                await self.load()
            except (StoreUnavailable, Overloaded):
                pass  # `watch` tells of it
            except Exception:
                _log.exception("looking for new heads failed")
            took_s = time.monotonic() - begun

    async def _heads(self) -> AsyncIterator[tuple[Scope, Version, float]]:
        """Every namespace's head, and when the store was asked for it. What was known before and is not there is forgotten."""
        before = dict(self._states)
        after: Scope | None = None
        while True:
            asked_s = time.monotonic()
            heads = await self._store.heads(after=after, limit=_HEADS_AT_ONCE)
            for scope, version in heads:
                before.pop(scope, None)
                yield scope, version, asked_s
            if len(heads) < _HEADS_AT_ONCE:
                break
            after = heads[-1][0]
        for scope, state in before.items():
            if self._states.get(scope) is state:
                self._lose(state)

    async def _verify(self, scope: Scope) -> None:
        """One namespace's head, key by key, as it is when this begins: one matrix at a time is in memory."""
        state = self._states[scope]
        number = state.version.version
        problems: dict[bytes, str] = {}
        seen: set[bytes] = set()
        try:
            stored = (await self._store.read(scope, number=number, numbers=False)).version
            if not is_same_commit(stored, state.version):  # of another history by now: the next look learns it
                return
            for entry in state.version.entries:
                problem = await self._problem(scope, number, entry, stored.entry(entry.key))
                self.verifications += 1
                self._verified.inc()
                seen.add(entry.certificate.digest)
                if problem:
                    problems[entry.certificate.digest] = problem
        except RhoCorrupt as error:  # the record itself
            self.found_corrupt(scope, error)
            return
        except (NotFound, VersionCompacted):  # it went meanwhile
            return
        self._verified_now(self._states[scope], state.version, problems, seen)

    def _verified_now(self, current: RhoState, version: Version, problems: dict[bytes, str], seen: set[bytes]) -> None:
        """Puts down what was found of `version`; where another is the head by now, of what that one still holds."""
        if is_same_commit(current.version, version):
            now_us = time.time_ns() // 1000
            self._set(replace(current, verify_time_us=now_us, problems=problems, unseen=current.unseen - seen))
            return
        held = {e.certificate.digest for e in current.version.entries if e.put_version <= version.version}
        found = current.problems | {d: text for d, text in problems.items() if d in held}
        self._set(replace(current, problems=found, unseen=current.unseen - (seen & held)))

    async def _problem(self, scope: Scope, version: int, entry: Entry, stored: Entry | None) -> str:
        c = entry.certificate
        # repr: an infinite error may have left a NaN, which is not equal to itself.
        if stored is None or repr(stored.certificate) != repr(c):
            return f"the stored certificate of {entry.key!r} changed"
        try:
            numbers = await self._store.body(scope, entry, number=version)
        except RhoCorrupt as error:
            return error.sentence()
        matrix = Matrix(kind=c.kind, layout=c.layout, dtype=c.dtype, shape=c.shape, numbers=numbers)
        return await asyncio.get_running_loop().run_in_executor(self._threads, verify, matrix, c)

    async def watch(self, interval_s: float) -> None:
        """Verifies again and again; never returns."""
        while True:
            try:
                self.verify_problem = await self.verify_all(pause_max_s=interval_s)
                pause_s = interval_s
            except (StoreUnavailable, Overloaded) as error:
                _log.warning("re-verification waits for the store: %s", error)
                self.verify_problem = f"waits for the store: {error}"
                pause_s = min(interval_s, _WAITING_S)
            except Exception as error:  # whatever is wrong with what is stored, looking must go on
                _log.exception("re-verification failed")
                self.verify_problem = f"failed ({_in_words(error)})"
                pause_s = interval_s
            await asyncio.sleep(pause_s)


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, SfmError) else type(error).__name__


def _warn_replaced(state: RhoState, now: str) -> None:
    told = (*_named(state), state.version.version, now)
    _log.warning("the history of %r (tenant %r) was replaced: it was at version %d, and %s", *told)


def _named(state: RhoState) -> tuple[str, str]:
    return state.scope.namespace, state.scope.tenant
