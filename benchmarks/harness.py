"""How everything here is measured: peers take turns (A B A B …), so that a noisy machine hits them alike; then ratios."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

Case = Callable[[], object]

# A ratio is taken in each of these stretches of a run; their median is told, and the best and worst show how steady it is.
BLOCKS = 9


@dataclass(frozen=True, slots=True)
class Samples:
    """Durations of one case in seconds, in the order they were taken."""

    seconds: Sequence[float]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        """The shortest."""
        return min(self.seconds)

    @property
    def mean(self) -> float:
        """The mean: what rare long ones cost shows here only."""
        return statistics.fmean(self.seconds)

    def quantile(self, q: float) -> float:
        """The q-quantile, nearest rank."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]

    def blocks(self) -> list[float]:
        """The median of each stretch of the run."""
        count = min(BLOCKS, len(self.seconds))
        edges = [round(i * len(self.seconds) / count) for i in range(count + 1)]
        return [statistics.median(self.seconds[a:b]) for a, b in itertools.pairwise(edges)]


@dataclass(frozen=True, slots=True)
class Ratio:
    """How two series of the same run compare."""

    median: float
    low: float
    high: float
    best: float
    """Of the two shortest durations: what is left when nothing disturbs."""
    mean: float

    @classmethod
    def of(cls, over: Samples, *under: Samples) -> Ratio:
        """`over` divided by `under`, or by the sum of several."""
        parts = zip(*(u.blocks() for u in under), strict=True)
        each = sorted(o / sum(p) for o, p in zip(over.blocks(), parts, strict=True))
        return cls(
            median=over.median / sum(u.median for u in under),
            low=each[0],
            high=each[-1],
            best=over.best / sum(u.best for u in under),
            mean=over.mean / sum(u.mean for u in under),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    what: str
    ours: str
    peer: str
    ratio: str
    target: str = ""
    ok: bool | None = None
    """None: there is no target."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """The same as numbers, and more of them, for the JSON."""


@dataclass(frozen=True, slots=True)
class Section:
    """One benchmark's table."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, object]:
        """What is written to the results."""
        return asdict(self)


def compare(what: str, ours: Samples, *peer: Samples, at_most: float | None = None) -> Row:
    """A row of durations: ours beside the peer's, or the sum of several. The ratio is ours / peer."""
    ratio = Ratio.of(ours, *peer)
    shown = f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f}; best {ratio.best:.2f}, mean {ratio.mean:.2f})"
    target, ok = ("", None) if at_most is None else (f"≤ {at_most:g}", ratio.median <= at_most)
    return _row(what, ratio, shown, target, ok, ours, peer)


def faster(what: str, ours: Samples, peer: Samples, at_least: float | None = None) -> Row:
    """A row that says how many times faster ours is."""
    ratio = Ratio.of(peer, ours)
    shown = f"{ratio.median:.1f}× ({ratio.low:.1f}–{ratio.high:.1f}; best {ratio.best:.1f})"
    target, ok = ("", None) if at_least is None else (f"≥ {at_least:g}×", ratio.median >= at_least)
    return _row(what, ratio, shown, target, ok, ours, (peer,))


def _row(what: str, ratio: Ratio, shown: str, target: str, ok: bool | None, ours: Samples, peer: Sequence[Samples]) -> Row:
    facts = {"ratio": asdict(ratio), "ours_s": summary(ours), "peer_s": [summary(p) for p in peer]}
    return Row(what, ms(ours.median), ms(sum(p.median for p in peer)), shown, target, ok, facts)


def size_of(n: int) -> str:
    """The bytes of an n×n float64 matrix, in words."""
    size = n * n * 8
    return f"{size / 1024:.3g} KiB" if size < 1000 << 10 else f"{size / (1 << 20):.3g} MiB"


def summary(samples: Samples) -> dict[str, float]:
    """A series in numbers."""
    return {
        "median": samples.median,
        "best": samples.best,
        "mean": samples.mean,
        "p95": samples.quantile(0.95),
        "max": max(samples.seconds),
        "count": len(samples.seconds),
    }


def ms(seconds: float) -> str:
    """Milliseconds with three digits."""
    return f"{seconds * 1000:.3g} ms"


def interleave(cases: Mapping[str, Case], repeats: int, warmup: int = 3, in_a_row: int = 1) -> dict[str, Samples]:
    """Lets the cases take turns, `repeats` rounds of `in_a_row` calls each; each round begins with another case."""
    names = list(cases)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        for _ in range(warmup):
            cases[name]()
    gc.collect()
    gc.disable()
    try:
        for turn in range(repeats):
            for place in range(len(names)):
                name = names[(turn + place) % len(names)]
                case, into = cases[name], taken[name]
                for _ in range(in_a_row):
                    started = time.perf_counter()
                    case()
                    into.append(time.perf_counter() - started)
    finally:
        gc.enable()
    return {name: Samples(seconds) for name, seconds in taken.items()}


def repeats_for(cases: Mapping[str, Case], budget_s: float, least: int, most: int) -> int:
    """How many rounds fit into a budget, after a first look at what one costs."""
    for case in cases.values():
        case()
    started = time.perf_counter()
    for case in cases.values():
        case()
    once = time.perf_counter() - started
    return max(least, min(most, int(budget_s / max(once, 1e-6))))
