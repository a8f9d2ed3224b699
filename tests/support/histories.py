"""Histories of concurrent clients, and what must be true of them afterwards. Pure functions: they talk to nobody.

Clients write down what they asked and what they were told, with the times of both on one clock. The store's own account of its
versions is added at the end. What follows is compared; each way to be wrong has a function of its own:

    lost      an answer promised a version that is not there, or is somebody else's; a version is missing between two others
    doubled   a request made two versions, or one although its caller was told that it made none
    torn      a version that nobody asked for; content, stored or read, that is not what that version's commits sent
    stale     an answer older than another one that had been given before it was asked for

Which answers count, the reads say: what the contract calls CACHED is never older than any version that a mutation's answer named
(the first one, a replay, a conflict), to anyone; what it calls CANONICAL is as new as whatever anyone was ever answered.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

KINDS = ("lost", "doubled", "torn", "stale")

Content = Mapping[str, bytes]
"""By key: the SHA-256 of its numbers."""


@dataclass(frozen=True, slots=True)
class Request:
    """A commit that a client wants, however often it has to ask."""

    namespace: str
    request_id: str
    expected: int
    changes: Mapping[str, bytes | None]
    """By key: the SHA-256 of the numbers put; None: the key goes away."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The answer that it was made."""

    request: Request
    version: int
    began_s: float
    """When it was asked for the first time."""
    ended_s: float
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Conflicted:
    """The answer that it was not made, and never will be."""

    request: Request
    current: int
    began_s: float
    ended_s: float
    asked_s: float = 0.0
    """When it was asked for the last time; what was told is true of then, or later."""


@dataclass(frozen=True, slots=True)
class Read:
    """The answer to a read of the newest version."""

    namespace: str
    version: int
    content: Content
    began_s: float
    ended_s: float
    cached: bool = False
    """It was asked for as CACHED, of a server with a cache before its store."""
    partial: bool = False
    """`content` is of some of the keys only."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A version, as the store has it in the end."""

    version: int
    request_id: str
    content: Content | None
    """None: it is no longer kept, and only known to have been."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that must not be."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass
class History:
    """What clients asked and were told."""

    requests: dict[str, Request] = field(default_factory=dict)
    committed: list[Committed] = field(default_factory=list)
    conflicted: list[Conflicted] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)

    def ask(self, request: Request) -> Request:
        """Written down before it is sent."""
        assert request.request_id not in self.requests, "a request id is used for one request"
        self.requests[request.request_id] = request
        return request

    @property
    def namespaces(self) -> set[str]:
        return {request.namespace for request in self.requests.values()} | {read.namespace for read in self.reads}

    @property
    def operations(self) -> int:
        """Questions that were answered."""
        return len(self.committed) + len(self.conflicted) + len(self.reads)

    def of(self, namespace: str) -> History:
        """What is about one namespace."""
        return History(
            {name: request for name, request in self.requests.items() if request.namespace == namespace},
            [c for c in self.committed if c.request.namespace == namespace],
            [c for c in self.conflicted if c.request.namespace == namespace],
            [r for r in self.reads if r.namespace == namespace],
        )


def problems(history: History, stored: Mapping[str, Sequence[Stored]]) -> list[Problem]:
    """All that is wrong. `stored`: by namespace, every version that was ever made."""
    found: list[Problem] = []
    for namespace in sorted(history.namespaces | set(stored)):
        mine, versions = history.of(namespace), sorted(stored.get(namespace, ()), key=lambda s: s.version)
        for check in (missing, lost, doubled, denied, unasked, torn, torn_reads, stale):
            found += [Problem(p.kind, f"{namespace}: {p.text}") for p in check(mine, versions)]
    return found


def counted(found: Iterable[Problem]) -> dict[str, int]:
    """How many of each kind; a zero for each that there is none of."""
    counts = Counter(problem.kind for problem in found)
    return {kind: counts[kind] for kind in KINDS}


# ---- what is there


def missing(_: History, stored: Sequence[Stored]) -> Iterator[Problem]:
    """Versions are contiguous from 1."""
    numbers = {s.version for s in stored}
    for version in range(1, max(numbers, default=0) + 1):
        if version not in numbers:
            yield Problem("lost", f"there is no version {version}, and there is a newer one")


def lost(history: History, stored: Sequence[Stored]) -> Iterator[Problem]:
    """Each acknowledged commit is where its answer said; each version that was read exists."""
    made = {s.version: s.request_id for s in stored}
    for c in history.committed:
        if made.get(c.version) != c.request.request_id:
            there = made.get(c.version, "nothing")
            yield Problem("lost", f"{c.request.request_id} was told that it made version {c.version}, where {there} is")
    for r in history.reads:
        if r.version and r.version not in made:
            yield Problem("lost", f"version {r.version} was read, and is not there")


def doubled(history: History, stored: Sequence[Stored]) -> Iterator[Problem]:
    """One request makes one version, and one version is won by one request."""
    versions = defaultdict(set)
    for s in stored:
        versions[s.request_id].add(s.version)
    for c in history.committed:
        versions[c.request.request_id].add(c.version)
    for request_id, several in versions.items():
        if len(several) > 1:
            yield Problem("doubled", f"{request_id} made the versions {', '.join(map(str, sorted(several)))}")
    for version, times in Counter(s.version for s in stored).items():
        if times > 1:
            yield Problem("doubled", f"there are {times} versions {version}")


def denied(history: History, stored: Sequence[Stored]) -> Iterator[Problem]:
    """Who was told that somebody else was faster may try again: so nothing of that request is there."""
    made = {s.request_id: s.version for s in stored}
    for c in history.conflicted:
        if c.request.request_id in made:
            version = made[c.request.request_id]
            yield Problem("doubled", f"{c.request.request_id} was told of a conflict, and made version {version}")


def unasked(history: History, stored: Sequence[Stored]) -> Iterator[Problem]:
    """Each version was asked for, upon the version before it."""
    for s in stored:
        request = history.requests.get(s.request_id)
        if request is None:
            yield Problem("torn", f"version {s.version} was made by {s.request_id!r}, which nobody sent")
        elif request.expected != s.version - 1:
            yield Problem("torn", f"version {s.version} was made by {s.request_id}, which expected {request.expected}")


# ---- what is in it


def contents(history: History, stored: Sequence[Stored]) -> dict[int, Content]:
    """By version: what it must hold, as its commit and those before it say."""
    holds: dict[str, bytes] = {}
    found: dict[int, Content] = {}
    for s in stored:
        request = history.requests.get(s.request_id)
        for key, digest in request.changes.items() if request else ():
            if digest is None:
                holds.pop(key, None)
            else:
                holds[key] = digest
        found[s.version] = dict(holds)
    return found


def torn(history: History, stored: Sequence[Stored]) -> Iterator[Problem]:
    """Each kept version holds what its commits sent."""
    expected = contents(history, stored)
    for s in stored:
        if s.content is not None and s.content != expected[s.version]:
            yield Problem(
                "torn", f"version {s.version} is stored with other content: {_difference(expected[s.version], s.content)}"
            )


def torn_reads(history: History, stored: Sequence[Stored]) -> Iterator[Problem]:
    """Each read holds all that its version holds, and nothing else."""
    expected = contents(history, stored)
    for r in history.reads:
        if r.version not in expected:
            continue
        whole = expected[r.version]
        wanted = {key: digest for key, digest in whole.items() if key in r.content} if r.partial else whole
        if r.content != wanted:
            yield Problem("torn", f"version {r.version} was read with other content: {_difference(wanted, r.content)}")


def _difference(expected: Content, found: Content) -> str:
    keys = sorted(key for key in {*expected, *found} if expected.get(key) != found.get(key))
    told = (f"{key} is {_short(found.get(key))}, not {_short(expected.get(key))}" for key in keys)
    return ", ".join(told)


def _short(digest: bytes | None) -> str:
    return digest.hex()[:12] if digest is not None else "absent"


# ---- in which order


def stale(history: History, _: Sequence[Stored]) -> Iterator[Problem]:
    """Nothing that was asked after an answer is older than that answer, whoever got it.

    A read is at least as new; a commit newer; a refusal knows of it. So answers agree with real time, and reads with commits.
    """
    known, told = _Known(history), _Known(history, reads=False)
    for r in history.reads:
        if r.version < (floor := (told if r.cached else known).before(r.began_s)):
            how = "from a cache" if r.cached else "canonically"
            yield Problem("stale", f"version {r.version} was read {how} after version {floor} had been answered")
    for c in history.committed:
        if c.version <= (floor := known.before(c.began_s)):
            yield Problem("stale", f"{c.request.request_id} made version {c.version} after version {floor} had been answered")
    for x in history.conflicted:
        if x.current < (floor := known.before(x.asked_s or x.began_s)):
            yield Problem("stale", f"a conflict named version {x.current} after version {floor} had been answered")


class _Known:
    """What had been answered until when."""

    def __init__(self, history: History, *, reads: bool = True) -> None:
        """By mutations only, or by reads, too."""
        told = [(c.ended_s, c.version) for c in history.committed]
        told += [(c.ended_s, c.current) for c in history.conflicted]
        told += [(r.ended_s, r.version) for r in history.reads if reads]
        told.sort()
        self._times = [time_s for time_s, _ in told]
        self._newest = list(itertools.accumulate((version for _, version in told), max))

    def before(self, time_s: float) -> int:
        """The newest version that any answer before had named."""
        place = bisect.bisect_left(self._times, time_s)
        return self._newest[place - 1] if place else 0
