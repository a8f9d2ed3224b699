"""What the demo tells: progress while it runs, then a table, then one line of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from examples.cognitive_manager.check import Verdict
from examples.cognitive_manager.check_memories import Remembered
from examples.cognitive_manager.forgetting import Forgotten
from examples.cognitive_manager.store import Store
from examples.cognitive_manager.tally import Tally, percentile_ms

_BAR = 30


class Progress:
    """On a terminal a bar that moves, elsewhere a line for every tenth; on standard error."""

    def __init__(self, total: int) -> None:
        self._total = max(total, 1)
        self._shown = -1
        self._moves = sys.stderr.isatty()

    def show(self, done: int, facts: str = "") -> None:
        """`done` of the total; cheap to call often."""
        at = done if self._moves else done * 10 // self._total
        if at == self._shown:
            return
        self._shown = at
        if self._moves:
            filled = min(_BAR, _BAR * done // self._total)
            line = f"\r  {'━' * filled}{'─' * (_BAR - filled)} {done}/{self._total} batches{facts}\x1b[K"
            print(line, end="", file=sys.stderr, flush=True)
        else:
            self.say(f"{done}/{self._total} batches{facts}")

    def say(self, what: str) -> None:
        """A line of its own."""
        print(("\r\x1b[K" if self._moves else "") + f"  {what}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leaves the bar where it is."""
        if self._moves and self._shown >= 0:
            print(file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Happened:
    """What the demo itself saw."""

    tally: Tally
    by_manager: Mapping[str, int]
    """Acknowledged commits of each."""
    taken_before: int
    """Batches that were in ρ already."""
    seconds: float
    kills: int
    store_name: str
    """`sqlite` or `postgres`."""
    servers: int | None
    """How many were the demo's own; None: somebody else's answered."""
    store: Store | None
    """None when the servers are somebody else's."""


def table(happened: Happened, verdict: Verdict, remembered: Remembered, forgotten: Forgotten) -> str:
    """The end of the show, for people."""
    tally, certificate = happened.tally, verdict.certificate
    shares = ", ".join(f"{name} {count}" for name, count in happened.by_manager.items())
    rows = [
        ("commits", f"{tally.commits} ({shares}) in {happened.seconds:.1f} s; version {verdict.version}" + _resumed(happened)),
        ("", f"{_ms(tally.commit_s, 50)} p50, {_ms(tally.commit_s, 95)} p95; {_mib(_bytes_per_commit(tally))} of numbers each"),
        ("conflicts", f"{tally.conflicts}, each thought through again on the newer ρ"),
        (
            "reads",
            f"{tally.reads}: {_ms(tally.read_s, 50)} p50, {_ms(tally.read_s, 95)} p95; {tally.reads_unmoved} moved no numbers",
        ),
        ("memories", f"{remembered.memories}, each in one commit with the ρ that came of it"),
        ("searches", f"{tally.searches}: {_ms(tally.search_s, 50)} p50, {_ms(tally.search_s, 95)} p95" + _recall(remembered)),
    ]
    if happened.kills or tally.outages:
        rows.append(
            ("outages", f"{happened.kills} SIGKILLs; {tally.outages} calls unanswered, {tally.replayed} answers replayed")
        )
    if happened.servers and happened.servers > 1:
        same = "" if verdict.problems else f"; each answers version {verdict.version} with the same bits"
        rows.append(("servers", f"{happened.servers} on one store{same}"))
    if happened.store is not None:
        rows.append(("store", _kept(happened.store, verdict)))
    for stop in verdict.milestones:
        seen = f"{stop.batches:4d} batches: entropy {stop.entropy_bits:.3f} bits, purity {stop.purity:.4f}"
        rows.append(("ρ after" if stop is verdict.milestones[0] else "", seen))
    rows += [
        ("certificate", f"λ_min ≥ {certificate.min_eigenvalue_bound:.3g}, |tr ρ − 1| = {certificate.trace_error:.3g}"),
        ("", f"(eigvalsh here: {verdict.eigenvalue_min:.3g})"),
        ("sketch", f"‖AᵀA − BᵀB‖₂ = {verdict.sketch_error:.2f}, Liberty's bound {verdict.sketch_bound:.2f}"),
    ]
    rows += _forgetting(forgotten)
    for name, best in remembered.samples.items():
        rows.append((f"{name} →", ", ".join(f"{r.name} {r.score:.2f}" for r in best)))
    if verdict.problems:
        rows += [("WRONG" if i == 0 else "", problem) for i, problem in enumerate(verdict.problems[:10])]
    else:
        rows.append(
            (
                "checked",
                f"{len(verdict.taken)} batches once each, all {tally.commits} acknowledged commits there, ρ replayed bit for bit",
            )
        )
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in rows)


def summary(happened: Happened, verdict: Verdict, remembered: Remembered, forgotten: Forgotten) -> str:
    """The last line, for scripts."""
    tally = happened.tally
    return json.dumps(
        {
            "commits": tally.commits,
            "conflicts": tally.conflicts,
            "reads": tally.reads,
            "read_p50_ms": percentile_ms(tally.read_s, 50),
            "read_p95_ms": percentile_ms(tally.read_s, 95),
            "commit_p95_ms": percentile_ms(tally.commit_s, 95),
            "bytes_per_commit": _bytes_per_commit(tally),
            "memories": remembered.memories,
            "searches": tally.searches,
            "search_p95_ms": percentile_ms(tally.search_s, 95),
            "recall_at_10": remembered.recall_at_10,
            "pruned": forgotten.pruned,
            "undone": forgotten.undone,
            "psd_ok": verdict.psd_ok,
            "trace_error": verdict.certificate.trace_error,
            "min_eigenvalue_bound": verdict.certificate.min_eigenvalue_bound,
            "store": happened.store_name,
            "servers": happened.servers,
            "kills": happened.kills,
        }
    )


def _forgetting(forgotten: Forgotten) -> list[tuple[str, str]]:
    if not forgotten.pruned:
        return []
    ways = " and ".join(f"a {door}" for door in forgotten.doors)
    found = [r for r in (forgotten.recall_before, forgotten.recall_after) if r is not None]
    recall = f"; of what stayed search finds {found[1]:.1%}, before {found[0]:.1%}" if len(found) == 2 else ""
    return [
        (
            "forgetting",
            f"{forgotten.pruned} of {forgotten.memories}, the lightest for ρ, by {ways}, each with the ρ without them",
        ),
        ("", f"all {forgotten.undone} brought back to the byte{recall}"),
    ]


def _kept(store: Store, verdict: Verdict) -> str:
    disk_bytes = store.disk_bytes()
    if disk_bytes is not None:
        return f"{_mib(disk_bytes)} on disk, {verdict.kept} versions kept"
    return f"{store.place}; {verdict.kept} versions stay there"


def _recall(remembered: Remembered) -> str:
    found = remembered.recall_at_10
    return "" if found is None else f"; they find {found:.1%} of the ten nearest that an exact scan finds"


def _resumed(happened: Happened) -> str:
    return f"; resumed after {happened.taken_before} batches" if happened.taken_before else ""


def _bytes_per_commit(tally: Tally) -> int | None:
    return round(tally.bytes_committed / tally.commits) if tally.commits else None


def _ms(seconds: Sequence[float], percent: int) -> str:
    found = percentile_ms(seconds, percent)
    return "–" if found is None else f"{found:.1f} ms"


def _mib(count: int | None) -> str:
    return "–" if count is None else f"{count / 2**20:.2f} MiB"
