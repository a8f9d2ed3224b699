"""The show: two managers follow the standard library's vectors into one namespace, and nothing is lost, doubled or bent.

`make demo`, or `python -m examples.cognitive_manager.demo --help`. Ends with 0 only if the final check finds nothing wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from examples.cognitive_manager import ledger, memories
from examples.cognitive_manager.check import check
from examples.cognitive_manager.ledger import Share
from examples.cognitive_manager.manager import ForeignNamespaceError, state_in
from examples.cognitive_manager.manager_process import ManagerProcess
from examples.cognitive_manager.memories import Memories
from examples.cognitive_manager.report import Happened, Progress, summary, table
from examples.cognitive_manager.server_process import ServerFailedError, ServerProcess
from examples.cognitive_manager.tally import Tally
from sfm_grpc.client import Client, NotFound, SfmError

_NAMES = ("manager-a", "manager-b")
_TICK_S = 0.05


def main() -> int:
    """Starts what is needed, watches, checks, tells."""
    stream = memories.load()
    given = _arguments(stream)
    signal.signal(signal.SIGTERM, _ended)
    try:
        with _server(given.target) as (target, server), _managers(given, target) as managers:
            return _show(given, stream, target, server, managers)
    except (SfmError, ServerFailedError, ForeignNamespaceError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
        return 130


def _show(
    given: argparse.Namespace, stream: Memories, target: str, server: ServerProcess | None, managers: list[ManagerProcess]
) -> int:
    progress = Progress(given.batches)
    if server:
        progress.say(f"a fresh server starts at {target}, two managers beside it")
        server.wait_ready()
    with Client(target, name="demo") as client:
        before = _taken(client, given.namespace, stream)
        progress.say(f"they write to namespace {given.namespace!r}, which has {before} of {given.batches} batches")
        # Together, so that they are in each other's way from the first commit on.
        for manager in managers:
            manager.wait_ready()
        began = time.monotonic()
        for manager in managers:
            manager.go()
        kills = _watch(managers, server, given.kill_server_every, progress, before)
        seconds = time.monotonic() - began
        complaints = [complaint for m in managers if (complaint := m.end())]
        for complaint in complaints:
            progress.say(complaint)
        progress.say("the check: every commit replayed from the vectors")
        tally = Tally()
        for manager in managers:
            tally.add(manager.tally or Tally())
        acknowledged = [commit for manager in managers for commit in manager.acknowledged]
        verdict = check(client, given.namespace, stream, given.batches, acknowledged)
    verdict.problems[:0] = complaints
    happened = Happened(
        tally=tally,
        by_manager={m.name: len(m.acknowledged) for m in managers},
        taken_before=before,
        seconds=seconds,
        kills=kills,
        disk_bytes=server.disk_bytes() if server else None,
    )
    print(table(happened, verdict, stream))
    print(summary(tally, verdict), flush=True)
    return 1 if verdict.problems else 0


def _watch(
    managers: list[ManagerProcess], server: ServerProcess | None, kill_every_s: float | None, progress: Progress, before: int
) -> int:
    """Shows progress until all managers have ended, and kills the server as told. Answers how often. Raises ServerFailedError."""
    kills, next_kill, counts = 0, None, [0 for _ in managers]
    while any(m.running for m in managers):
        time.sleep(_TICK_S)
        done = [len(m.acknowledged) for m in managers]
        progress.show(before + sum(done), f" ({' + '.join(map(str, done))})")
        if server is None:
            continue
        if not server.alive:
            raise server.failure("ended by itself")
        if kill_every_s is None:
            continue
        if next_kill is None:
            # The time runs once every manager has committed again: they shall be interrupted, not starved.
            if all(now > then or not m.running for m, now, then in zip(managers, done, counts, strict=True)):
                next_kill = time.monotonic() + kill_every_s
        elif time.monotonic() >= next_kill:
            server.kill()
            server.launch()
            server.wait_ready()
            kills, next_kill, counts = kills + 1, None, done
            progress.say(f"the server was killed and is back ({kills})")
    progress.end()
    return kills


@contextlib.contextmanager
def _server(target: str | None) -> Iterator[tuple[str, ServerProcess | None]]:
    """The one at `target`, if it answers, or a fresh one that goes away with everything it kept."""
    if target:
        with Client(target, name="demo") as client:
            client.server_info()
        yield target, None
        return
    with tempfile.TemporaryDirectory(prefix="sfm-demo-") as directory, ServerProcess(Path(directory)) as server:
        yield server.target, server


@contextlib.contextmanager
def _managers(given: argparse.Namespace, target: str) -> Iterator[list[ManagerProcess]]:
    managers: list[ManagerProcess] = []
    try:
        for i, name in enumerate(_NAMES):
            share = Share(i, len(_NAMES))
            managers.append(
                ManagerProcess(
                    name, target=target, namespace=given.namespace, share=share, batches=given.batches, seed=given.seed
                )
            )
        yield managers
    finally:
        for manager in managers:
            manager.end()


def _taken(client: Client, namespace: str, stream: Memories) -> int:
    """How many batches are in ρ already. Raises ForeignNamespaceError."""
    try:
        snapshot = client.namespace(namespace).read()
    except NotFound:
        return 0
    return len(ledger.trail(state_in(snapshot, stream).ledger))


def _arguments(stream: Memories) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", metavar="HOST:PORT", help="a server that runs already, instead of a fresh one")
    parser.add_argument("--namespace", default="cognitive-manager", help="where to write; what is there already is resumed")
    parser.add_argument(
        "--batches",
        type=_positive,
        default=stream.batches,
        metavar="N",
        help="the first N of the stream's (default: all %(default)s)",
    )
    parser.add_argument(
        "--kill-server-every",
        type=_seconds,
        metavar="SECONDS",
        help="SIGKILL the server so long after both managers could commit, again and again",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what the managers recall")
    given = parser.parse_args()
    if given.batches > stream.batches:
        parser.error(f"--batches: the stream has {stream.batches}")
    if given.kill_server_every and given.target:
        parser.error("--kill-server-every: only the server that the demo starts is the demo's to kill")
    return given


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < float("inf"):
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")


def _ended(number: int, _frame: object) -> NoReturn:
    """SIGTERM leaves through the front door, so that no process stays behind."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
