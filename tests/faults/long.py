"""The long run: two servers on one Postgres, killed, frozen and cut off again and again while clients commit and read.

    make faults ARGS="--kills 200 --seed 1 --minutes 10"

The last line is JSON. The exit code is 0 where nothing was lost, doubled, torn or stale, and no server met what it did not
foresee. The seed fixes which faults come in which order, not the moments at which they hit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from tests.faults.clients import Load
from tests.faults.judged import judged
from tests.faults.servers import FailingServer
from tests.support.engines.postgres import PostgresEngine, migrated
from tests.support.failpoints import SENT
from tests.support.histories import KINDS, Problem, counted
from tests.support.servers import settings_for, until
from tests.support.services.absence import AbsentError
from tests.support.services.databases import Database
from tests.support.services.postgres import own_cluster
from tests.support.services.postgres_server import PostgresServer
from tests.support.services.proxy import FaultProxy

# Clients are judged, and begin anew on other namespaces, after so many kills.
ROUND_KILLS = 20
CLIENTS, NAMESPACES = 6, 3
KEPT = 40
SERVER_POINTS = [
    "commit.received",
    "commit.admitted",
    "commit.told",
    "commit.answered",
    "postgres.commit.look",
    "postgres.commit.unsent",
    SENT,
    "postgres.commit.written",
    "postgres.commit.executed",
    "postgres.reads.read",
    "postgres.housekeeping.delete_bodies",
    "postgres.housekeeping.set_oldest",
    "postgres.compact.done",
]
STATEMENT_MS = 800


class Run:
    """Everything that is there to be harmed."""

    def __init__(self, database: Database, cluster: PostgresServer, proxy: FaultProxy, directory: Path, seed: int) -> None:
        self.cluster, self.proxy = cluster, proxy
        self.settings = settings_for(postgres_url=database.url)
        self.servers = [
            FailingServer(
                directory / f"server-{number}.log",
                postgres_url=url,
                rho_history_versions=KEPT,
                postgres_statement_timeout_ms=STATEMENT_MS,
                postgres_lock_timeout_ms=STATEMENT_MS // 2,
                postgres_connect_timeout_s=2,
            )
            for number, url in enumerate((database.url, proxy.url(database.url)))
        ]
        self.rng = random.Random(seed)
        self.kills = 0
        self.faults: Counter[str] = Counter()
        self._directory = directory
        self._held = 0

    def close(self) -> None:
        """No server is left."""
        for server in self.servers:
            server.close()

    async def harm(self) -> None:
        """One fault, and all is up again."""
        faults: dict[Callable[[], Awaitable[None]], int] = {
            self.kill_server: 6,
            self.kill_server_at_a_point: 8,
            self.kill_postgres: 5,
            self.kill_postgres_at_a_point: 4,
            self.kill_both: 2,
            self.restart_postgres: 1,
            self.freeze_postgres: 1,
            self.cut: 2,
            self.hang: 1,
        }
        [fault] = self.rng.choices(list(faults), list(faults.values()))
        self.faults[fault.__name__] += 1
        await asyncio.sleep(self.rng.uniform(0, 0.05))
        await fault()

    async def kill_server(self) -> None:
        """At any moment."""
        server = self._one()
        server.kill()
        await self._died(server)
        await server.begin()

    async def kill_server_at_a_point(self) -> None:
        """It is begun again with a failpoint, dies of it, and is begun without."""
        server = self._one()
        point = self.rng.choice(SERVER_POINTS)
        server.kill()
        await self._died(server)
        await server.begin_and_die(f"{point}=kill@{self.rng.randint(1, 4)}")
        await self._died(server)
        await server.begin()

    async def kill_postgres(self) -> None:
        """At any moment."""
        await asyncio.to_thread(self.cluster.kill)
        self.kills += 1
        await asyncio.sleep(self.rng.choice((0, 0, 0.3)))
        await asyncio.to_thread(self.cluster.start)

    async def kill_postgres_at_a_point(self) -> None:
        """While a server stands still at one."""
        self._held += 1
        held = self._directory / f"held-{self._held}"
        server = self._one()
        server.kill()
        await self._died(server)
        await server.begin(f"{self.rng.choice(SERVER_POINTS)}=wait:{held}@{self.rng.randint(1, 4)}")
        await until(held.with_name(f"{held.name}.reached").exists, within_s=60)
        await asyncio.sleep(self.rng.uniform(0, 0.01))
        await self.kill_postgres()
        held.touch()

    async def kill_both(self) -> None:
        """As when a machine dies."""
        server = self._one()
        server.kill()
        await self.kill_postgres()
        await self._died(server)
        await server.begin()

    async def restart_postgres(self) -> None:
        """As for an update."""
        await asyncio.to_thread(self.cluster.restart, self.rng.choice(("fast", "immediate")))

    async def freeze_postgres(self) -> None:
        """For less than a statement may take, or for longer."""
        await asyncio.to_thread(self.cluster.freeze)
        await asyncio.sleep(self.rng.choice((0.3, 2.5)))
        await asyncio.to_thread(self.cluster.thaw)

    async def cut(self) -> None:
        """Every line of the server behind the proxy."""
        self.proxy.drop()

    async def hang(self) -> None:
        """Nothing comes back from Postgres for a while, and then it is cut."""
        self.proxy.hang("down")
        await asyncio.sleep(self.rng.uniform(0.05, 0.5))
        self.proxy.drop()
        self.proxy.restore()

    def _one(self) -> FailingServer:
        return self.rng.choice(self.servers)

    async def _died(self, server: FailingServer) -> None:
        await server.die()
        self.kills += 1


class Account:
    """What it came to."""

    def __init__(self) -> None:
        self.operations = self.reads = self.replayed = 0
        self.found: list[Problem] = []
        self.asked_again: Counter[str] = Counter()

    async def add(self, load: Load, run: Run) -> None:
        """One round is over: clients against store, and the store against itself."""
        found = await judged(load, run.servers[0].address, run.settings)
        found += [Problem("torn", text) for text in PostgresEngine(run.cluster).damage(run.settings)]
        self.found += found
        self.operations += load.history.operations
        self.reads += len(load.history.reads)
        self.replayed += load.replayed
        self.asked_again += load.failures
        for problem in found[:20]:
            print(problem, file=sys.stderr)


async def main(kills: int, seed: int, minutes: float) -> int:
    until_s = time.monotonic() + 60 * minutes
    account, began_s = Account(), time.monotonic()
    async with _prepared(seed) as run:
        turn = 0
        while run.kills < kills and time.monotonic() < until_s:
            turn += 1
            await _round(run, account, turn, min(kills, run.kills + ROUND_KILLS), until_s, seed)
            print(
                f"{run.kills} kills, {account.operations} answers, {time.monotonic() - began_s:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        unforeseen = [complaint for server in run.servers for complaint in server.complaints]
        for complaint in unforeseen[:3]:
            print(complaint, file=sys.stderr)
    counts = counted(account.found)
    told = {
        "operations": account.operations,
        "reads_checked": account.reads,
        "faults": sum(run.faults.values()),
        "kills": run.kills,
        **counts,
        "unforeseen": len(unforeseen),
        "answers_lost_and_found": account.replayed,
        "asked_again": dict(account.asked_again),
        "by_fault": dict(run.faults),
        "seconds": round(time.monotonic() - began_s),
        "seed": seed,
    }
    print(json.dumps(told))
    return 1 if unforeseen or any(counts[kind] for kind in KINDS) else 0


async def _round(run: Run, account: Account, turn: int, kills: int, until_s: float, seed: int) -> None:
    """Clients on namespaces of their own, until so many kills."""
    addresses = [server.address for server in run.servers]
    namespaces = [f"{turn}-{number}" for number in range(NAMESPACES)]
    load = Load(addresses, namespaces, clients=CLIENTS, seed=hash((seed, turn)), name=f"{turn}-c")
    async with load:
        while run.kills < kills and time.monotonic() < until_s:
            await load.progress(run.rng.randint(1, 12))
            await run.harm()
        await load.progress(5)
    await account.add(load, run)


@contextlib.asynccontextmanager
async def _prepared(seed: int) -> AsyncIterator[Run]:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(own_cluster())
        database = await asyncio.to_thread(cluster.fresh, migrated)
        proxy = stack.enter_context(FaultProxy.to(database.url))
        run = stack.enter_context(contextlib.closing(Run(database, cluster, proxy, directory, seed)))
        await asyncio.gather(*(server.begin() for server in run.servers))
        yield run


def run() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.faults.long", description=__doc__.partition("\n")[0])
    arguments.add_argument("--kills", type=int, default=200, help="SIGKILLs of servers and of Postgres")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--minutes", type=float, default=10, help="the end, however many kills there were")
    told = arguments.parse_args()
    try:
        return asyncio.run(main(told.kills, told.seed, told.minutes))
    except AbsentError as absent:
        print(absent, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run())
