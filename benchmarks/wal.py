"""What a commit writes into Postgres' WAL, beside a bare UPDATE of the same bytes: a part of `growth`."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable

from benchmarks import postgres, processes
from benchmarks.harness import Row, size_of
from benchmarks.matrices import steps
from benchmarks.postgres import BareTable, Questions
from sfm_grpc.client import Client

_SIZES = (64, 256, 362, 1024)  # 32 KiB, 512 KiB, 1 MiB, 8 MiB
_HISTORY = 8
_SETTLE_S = 3.0  # housekeeping has come round, and found nothing more to take away
_MOMENTS = ("first after a checkpoint", "steady", f"a checkpoint every {_HISTORY}")

NOTES = (
    "WAL: bytes a commit (ours) beside a bare UPDATE's of the same bytes (peer), as parts of these bytes (ours only).",
    "'first after a checkpoint': by itself, with the full pages that it is the first to touch.",
    f"'steady': long after one, with what retention ({_HISTORY} versions stay) and VACUUM write.",
    f"'a checkpoint every {_HISTORY}': the same where every version outlives one, so that taking it away writes full pages.",
)


def rows(url: str, count: int) -> list[Row]:
    """Four sizes, three moments; `count` commits in the steady one."""
    made: list[Row] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(processes.ours(**postgres.settings(url), rho_history_versions=_HISTORY))
        client = stack.enter_context(Client(server.address))
        questions = stack.enter_context(Questions(url))
        table = stack.enter_context(BareTable(url))
        for n in _SIZES:
            ours = _written(questions, _committing(client, n), count)
            peer = _written(questions, _updating(table, n), count)
            for what, mine, theirs in zip(_MOMENTS, ours, peer, strict=True):
                body = n * n * 8
                facts = {"bytes": body, "ours": mine, "peer": theirs}
                shown = f"{mine / theirs:.2f}; {mine / body:.2f} of the body"
                made.append(Row(f"WAL, {size_of(n)}, {what}", _kib(mine), _kib(theirs), shown, facts=facts))
    return made


def _committing(client: Client, n: int) -> Callable[[], object]:
    namespace, versions, turn = client.namespace(f"wal-{n}"), itertools.count(), itertools.cycle(steps(n, 4))
    return lambda: namespace.commit({"rho": next(turn)}, expected_version=next(versions))


def _updating(table: BareTable, n: int) -> Callable[[], object]:
    turn = itertools.cycle([array.tobytes() for array in steps(n, 4)])
    return lambda: table.update(next(turn))


def _written(questions: Questions, commit: Callable[[], object], count: int) -> tuple[float, ...]:
    """Bytes of WAL a commit at each of the moments."""

    def several(commits: int) -> float:
        before = questions.wal_bytes()
        for _ in range(commits):
            commit()
        # Retention has taken away what it takes, and vacuum has made room.
        time.sleep(_SETTLE_S)
        questions.vacuum()
        return (questions.wal_bytes() - before) / commits

    several(2 * _HISTORY)
    questions.checkpoint()
    checkpointed = several(_HISTORY)
    several(2 * _HISTORY)  # after these, every page in use was written since the checkpoint
    steady = several(count)
    first = []
    for _ in range(5):
        questions.checkpoint()
        before = questions.wal_bytes()
        commit()
        first.append(questions.wal_bytes() - before)
    return statistics.median(first), steady, checkpointed


def _kib(size: float) -> str:
    return f"{size / 1024:.1f} KiB"
