"""Disk on Postgres: whether tables stop growing when retention takes away as much as commits bring, and what the WAL costs."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from benchmarks import postgres, processes, wal
from benchmarks.harness import Row, Section, size_of
from benchmarks.matrices import steps
from benchmarks.postgres import Questions, Relation
from sfm_grpc.client import AsyncClient
from tests.support.services.absence import AbsentError

_N = 44  # 15 KiB
_HISTORY = 100
_NAMESPACES = 16
_COMMITS = 100_000
_SECONDS_MAX = 480.0
_SAMPLE_EVERY_S = 5.0
_SHOWN = 12
# What may still be added between the highest of the middle third and the highest of the last: autovacuum comes once a minute.
_BOUNDED, _SLACK_BYTES = 1.2, 1 << 20
# Remembered for a day, whatever happens: bounded by a day's commits, which no run of minutes can show.
_KEPT_BY_AGE = frozenset({"request"})

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the disk."""

    seconds: float
    commits: int
    wal_bytes: int
    relations: Mapping[str, Relation]


def run(*, quick: bool) -> Section:
    """The long run, then the WAL at four sizes."""
    try:
        with postgres.database() as url:
            return _measured(url, quick=quick)
    except AbsentError as absent:
        return Section("Growth on Postgres", [], [str(absent)])


def _measured(url: str, *, quick: bool) -> Section:
    with processes.ours(**postgres.settings(url), rho_history_versions=_HISTORY) as server:
        samples = asyncio.run(_filled(server.address, url, 3_000 if quick else _COMMITS, 1.0 if quick else _SAMPLE_EVERY_S))
    written = wal.rows(url, 5 if quick else 30)
    last = samples[-1]
    return Section(
        f"Growth on Postgres: {last.commits} commits of {size_of(_N)}, {_NAMESPACES} namespaces, {_HISTORY} versions kept",
        [*_bounds(samples, judged=not quick), *written],
        [
            "Tables: the most on disk in the last third of the run (ours) and in the middle third (peer); bounded is "
            f"≤ {_BOUNDED:g} × that.",
            *(["The quick run is too short for autovacuum to come round: nothing is judged."] if quick else []),
            "Requests are remembered for a day, so their table grows with a day's commits.",
            *wal.NOTES,
            *_timeline(samples),
            postgres.about(url),
        ],
    )


# ---- the long run ------------------------------------------------------------------------------------------------------


async def _filled(address: str, url: str, commits: int, every_s: float) -> list[Sample]:
    """Commits into all namespaces at once, and looks at the disk meanwhile."""
    matrices = steps(_N, 4)
    waiting = iter(range(commits))
    started, done = time.perf_counter(), 0
    samples: list[Sample] = []

    async def work(client: AsyncClient, name: str) -> None:
        nonlocal done
        namespace = client.namespace(name)
        for version in itertools.count():
            if next(waiting, None) is None or time.perf_counter() - started > _SECONDS_MAX:
                return
            await namespace.commit({"rho": matrices[version % len(matrices)]}, expected_version=version)
            done += 1

    def look(questions: Questions) -> None:
        relations = {relation.name: relation for relation in questions.relations()}
        samples.append(Sample(time.perf_counter() - started, done, questions.wal_bytes(), relations))

    async def watch(questions: Questions) -> None:
        while True:
            await asyncio.to_thread(look, questions)
            await asyncio.sleep(every_s)

    with Questions(url) as questions:
        async with AsyncClient(address, cache_bytes_max=0) as client:
            watching = asyncio.create_task(watch(questions))
            await asyncio.gather(*(work(client, f"growth-{place}") for place in range(_NAMESPACES)))
            watching.cancel()
            await asyncio.wait([watching])
        look(questions)
    return samples


def _bounds(samples: Sequence[Sample], *, judged: bool) -> list[Row]:
    last = samples[-1]
    middle = [s for s in samples if last.commits / 3 <= s.commits < last.commits * 2 / 3] or [samples[0]]
    final = [s for s in samples if s.commits >= last.commits * 2 / 3]
    rows = []
    for name in last.relations:
        highest, before = _most(final, name), _most(middle, name)
        ratio = highest / max(before, 1)
        by_age = name in _KEPT_BY_AGE
        shown = f"{ratio:.2f}" + (f"; {highest / last.commits:.0f} bytes a commit" if by_age else "")
        ok = highest <= _BOUNDED * before + _SLACK_BYTES if judged and not by_age else None
        facts = [asdict(s.relations[name]) | {"seconds": s.seconds, "commits": s.commits} for s in samples if name in s.relations]
        rows.append(
            Row(
                name,
                _mib(highest),
                _mib(before),
                shown,
                "bounded" if not by_age else "",
                ok,
                {"ratio": ratio, "over_time": facts},
            )
        )
    return rows


def _most(samples: Sequence[Sample], name: str) -> int:
    return max(s.relations[name].total if name in s.relations else 0 for s in samples)


def _timeline(samples: Sequence[Sample]) -> list[str]:
    """A look now and then: all tables together, and the WAL since the look before."""
    count = min(_SHOWN, len(samples))
    places = sorted({round(i * (len(samples) - 1) / max(count - 1, 1)) for i in range(count)})
    lines = [
        f"{'commits':>9} {'s':>5} {'tables':>9} {'TOAST':>9} {'indexes':>9} {'dead':>9} {'autovacuums':>11} {'WAL/commit':>11}"
    ]
    for before, sample in itertools.pairwise([samples[0], *(samples[place] for place in places)]):
        of = sample.relations.values()
        commits = sample.commits - before.commits
        wal = f"{(sample.wal_bytes - before.wal_bytes) / commits / 1024:.1f} KiB" if commits else ""
        sizes = (_mib(sum(r.table for r in of)), _mib(sum(r.toast for r in of)), _mib(sum(r.indexes for r in of)))
        vacuum = f"{sum(r.dead for r in of):>9} {sum(r.autovacuums for r in of):>11}"
        lines.append(f"{sample.commits:>9} {sample.seconds:>5.0f} " + " ".join(f"{s:>9}" for s in sizes) + f" {vacuum} {wal:>11}")
    return lines


def _mib(size: float) -> str:
    return f"{size / _MIB:.1f} MiB"
