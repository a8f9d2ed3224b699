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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from examples.cognitive_manager import ledger
from examples.cognitive_manager.check import Verdict, check, check_each
from examples.cognitive_manager.check_memories import Remembered, check_memories
from examples.cognitive_manager.forgetting import Forgotten, forget
from examples.cognitive_manager.ledger import Share
from examples.cognitive_manager.manager_process import ManagerProcess
from examples.cognitive_manager.options import arguments
from examples.cognitive_manager.order_message import OrderMessages
from examples.cognitive_manager.outages import Outages
from examples.cognitive_manager.report import Happened, Progress, summary, table
from examples.cognitive_manager.server_process import ServerFailedError, ServerProcess, joint_target
from examples.cognitive_manager.state import ForeignNamespaceError, state_in
from examples.cognitive_manager.store import Store, StoreFailedError, chosen
from examples.cognitive_manager.stream import Stream
from examples.cognitive_manager.tally import Tally
from sfm_grpc.client import Client, NotFound, SfmError

_NAMES = ("manager-a", "manager-b")
_TICK_S = 0.05


def main() -> int:
    """Starts what is needed, watches, checks, tells."""
    stream = Stream.load()
    given = arguments(stream)
    signal.signal(signal.SIGTERM, _ended)
    try:
        with _data_plane(given) as plane, _managers(given, plane) as managers:
            return _show(given, stream, plane, managers)
    except (SfmError, StoreFailedError, ServerFailedError, ForeignNamespaceError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted", file=sys.stderr)
        return 130


@dataclass(frozen=True, slots=True)
class _DataPlane:
    """Who answers the managers, and whose namespaces they are."""

    targets: Sequence[str]
    """What each manager is told, as gRPC names: the first for the first."""
    tenant: str
    store: Store | None = None
    """None, and no servers: they are somebody else's."""
    servers: Sequence[ServerProcess] = ()


def _show(given: argparse.Namespace, stream: Stream, plane: _DataPlane, managers: list[ManagerProcess]) -> int:
    progress = Progress(given.batches)
    for step in plane.store.steps if plane.store else ():
        progress.say(step)
    if plane.servers:
        progress.say(f"{_starting(plane.servers)}, two managers beside {'it' if len(plane.servers) == 1 else 'them'}")
    for server in plane.servers:
        server.wait_ready()
    with Client(plane.targets[0], tenant=plane.tenant, name="demo") as client:
        before = _taken(client, given.namespace, stream)
        whose = "" if plane.tenant == "default" else f" of tenant {plane.tenant!r}"
        progress.say(f"they write to namespace {given.namespace!r}{whose}, which has {before} of {given.batches} batches")
        # Together, so that they are in each other's way from the first commit on.
        for manager in managers:
            manager.wait_ready()
        began = time.monotonic()
        for manager in managers:
            manager.go()
        outages = Outages(plane.servers, managers, given.kill_server_every, progress.say)
        _watch(managers, outages, progress, before)
        seconds = time.monotonic() - began
        outages.end()
        complaints = [complaint for m in managers if (complaint := m.end())]
        for complaint in complaints:
            progress.say(complaint)
        progress.say("the check: every commit replayed from the vectors, every memory compared")
        tally = Tally()
        for manager in managers:
            tally.add(manager.tally or Tally())
        acknowledged = [commit for manager in managers for commit in manager.acknowledged]
        verdict = check(client, given.namespace, stream, given.batches, acknowledged)
        store_name = client.server_info().store
    check_each([server.target for server in plane.servers], plane.tenant, given.namespace, verdict)
    remembered = _remembered(given, stream, plane, verdict)
    progress.say("forgetting: in a copy, the lightest tenth is pruned by two orders with the ρ without them, and brought back")
    forgotten = _forgotten(given, stream, plane, verdict)
    verdict.problems[:0] = [*complaints, *remembered.problems, *forgotten.problems]
    happened = Happened(
        tally=tally,
        by_manager={m.name: len(m.acknowledged) for m in managers},
        taken_before=before,
        seconds=seconds,
        kills=outages.kills,
        store_name=store_name,
        servers=len(plane.servers) or None,
        store=plane.store,
    )
    print(table(happened, verdict, remembered, forgotten))
    print(summary(happened, verdict, remembered, forgotten), flush=True)
    return 1 if verdict.problems else 0


def _remembered(given: argparse.Namespace, stream: Stream, plane: _DataPlane, verdict: Verdict) -> Remembered:
    """The check of the memories; each server of one's own is asked for itself."""
    targets = [server.target for server in plane.servers] or plane.targets[:1]
    with contextlib.ExitStack() as connected:
        clients = [connected.enter_context(Client(target, tenant=plane.tenant, name="demo")) for target in targets]
        each = [client.namespace(given.namespace).memories for client in clients]
        return check_memories(each, stream, verdict.taken, verdict.rho)


def _forgotten(given: argparse.Namespace, stream: Stream, plane: _DataPlane, verdict: Verdict) -> Forgotten:
    """The forgetting, in a copy; by message, too, where the environment names a Kafka."""
    targets = [server.target for server in plane.servers] or plane.targets[:1]
    messages = OrderMessages.configured(plane.tenant, "demo") if plane.servers else None
    with contextlib.ExitStack() as connected:
        clients = [connected.enter_context(Client(target, tenant=plane.tenant, name="demo")) for target in targets]
        try:
            return forget(clients, given.namespace, verdict.rho, stream, messages)
        except (SfmError, TimeoutError) as error:
            return Forgotten(problems=[f"forgetting failed: {error}"])


def _watch(managers: list[ManagerProcess], outages: Outages, progress: Progress, before: int) -> None:
    """Shows progress until all managers have ended, and lets outages happen. Raises ServerFailedError."""
    while any(m.running for m in managers):
        time.sleep(_TICK_S)
        done = [len(m.acknowledged) for m in managers]
        progress.show(before + sum(done), f" ({' + '.join(map(str, done))})")
        outages.look()
    progress.end()


@contextlib.contextmanager
def _data_plane(given: argparse.Namespace) -> Iterator[_DataPlane]:
    """The servers at `--target`, if they answer; or fresh ones, on the store that the environment names."""
    if given.target:
        with Client(given.target, name="demo") as client:
            client.server_info()
        yield _DataPlane([given.target] * len(_NAMES), given.tenant or "default")
        return
    with tempfile.TemporaryDirectory(prefix="sfm-demo-") as directory, contextlib.ExitStack() as running:
        store = chosen(Path(directory))
        names = ["the server"] if given.servers == 1 else [f"server {i + 1}" for i in range(given.servers)]
        servers = [running.enter_context(ServerProcess(Path(directory), store, name=name)) for name in names]
        # Each manager has a server that it calls first, and calls the others while that is gone.
        targets = [joint_target(servers, first=i) for i in range(len(_NAMES))]
        yield _DataPlane(targets, given.tenant or store.tenant, store, servers)


@contextlib.contextmanager
def _managers(given: argparse.Namespace, plane: _DataPlane) -> Iterator[list[ManagerProcess]]:
    managers: list[ManagerProcess] = []
    try:
        for i, name in enumerate(_NAMES):
            managers.append(
                ManagerProcess(
                    name,
                    target=plane.targets[i],
                    tenant=plane.tenant,
                    namespace=given.namespace,
                    share=Share(i, len(_NAMES)),
                    batches=given.batches,
                    seed=given.seed,
                    pause_s=given.pause or 0.0,
                )
            )
        yield managers
    finally:
        for manager in managers:
            manager.end()


def _starting(servers: Sequence[ServerProcess]) -> str:
    if len(servers) == 1:
        return f"a fresh server starts at {servers[0].target}"
    return f"{len(servers)} fresh servers of one store start at {', '.join(server.target for server in servers)}"


def _taken(client: Client, namespace: str, stream: Stream) -> int:
    """How many batches are in ρ already. Raises ForeignNamespaceError."""
    try:
        snapshot = client.namespace(namespace).read()
    except NotFound:
        return 0
    return len(ledger.trail(state_in(snapshot, stream).ledger))


def _ended(number: int, _frame: object) -> NoReturn:
    """SIGTERM leaves through the front door, so that no process stays behind."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
