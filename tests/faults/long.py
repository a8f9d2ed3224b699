"""The long run: three servers on one Postgres and one Redis, killed, frozen and cut off again and again under clients.

    make faults ARGS="--kills 500 --reads 1000000 --seed 1 --minutes 60"

It ends when there were so many kills and checked reads, or after so many minutes. The last line is JSON. The exit code is 0 where
nothing was lost, doubled, torn or stale, and no server met what it did not foresee. The seed fixes which faults come in which
order, not the moments at which they hit. `--without PART` takes a part of the cache protocol away: then something must be found.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from tests.faults.clients import Load
from tests.faults.harms import Harms
from tests.faults.judged import judged
from tests.faults.readers import Readers
from tests.support.engines.postgres import PostgresEngine, migrated
from tests.support.histories import KINDS, Problem, counted
from tests.support.mutants import PARTS
from tests.support.services.absence import AbsentError
from tests.support.services.postgres import own_cluster
from tests.support.services.redis import own_redis

CLIENTS, NAMESPACES = 5, 3
# Between faults, so that servers get to their reads.
PAUSE_COMMITS = 12


class Account:
    """What it came to."""

    def __init__(self) -> None:
        self.operations = self.reads = self.replayed = 0
        self.found: list[Problem] = []
        self.asked_again: Counter[str] = Counter()

    async def add(self, load: Load, readers: Readers, harms: Harms) -> None:
        """One round is over: clients against store, and the store against itself."""
        readers.add_to(load.history)
        found = await judged(load, harms.servers[0].address, harms.settings)
        found += [Problem("torn", text) for text in PostgresEngine(harms.cluster).damage(harms.settings)]
        self.found += found
        self.operations += load.history.operations
        self.reads += len(load.history.reads)
        self.replayed += load.replayed
        self.asked_again += load.failures
        for problem in found[:20]:
            print(problem, file=sys.stderr)

    def ended(self, harms: Harms, goal: argparse.Namespace, until_s: float) -> bool:
        """There were kills and reads enough, or there is no more time; or something was found that was looked for."""
        enough = harms.kills >= goal.kills and self.reads >= goal.reads
        return enough or time.monotonic() > until_s or bool(goal.without and self.found)


async def main(goal: argparse.Namespace) -> int:
    until_s = time.monotonic() + 60 * goal.minutes
    account, began_s = Account(), time.monotonic()
    async with _prepared(goal) as harms:
        turn = 0
        while not account.ended(harms, goal, until_s):
            turn += 1
            await _round(harms, account, turn, goal, until_s)
            told = f"{harms.kills} kills, {account.operations} answers, {account.reads} reads"
            print(f"{told}, {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)
        unforeseen = harms.complaints
    counts = counted(account.found)
    told = {
        "operations": account.operations,
        "reads_checked": account.reads,
        "faults": sum(harms.faults.values()),
        "kills": harms.kills,
        **counts,
        "unforeseen": len(unforeseen),
        "answers_lost_and_found": account.replayed,
        "asked_again": dict(account.asked_again),
        "by_fault": dict(harms.faults),
        "seconds": round(time.monotonic() - began_s),
        "seed": goal.seed,
    }
    print(json.dumps(told | ({"without": goal.without} if goal.without else {})))
    return 1 if unforeseen or any(counts[kind] for kind in KINDS) else 0


async def _round(harms: Harms, account: Account, turn: int, goal: argparse.Namespace, until_s: float) -> None:
    """Clients on namespaces of their own, until so many kills; where there were enough, as many reads as a round of them has."""
    addresses = [server.address for server in harms.servers]
    namespaces = [f"{turn}-{number}" for number in range(NAMESPACES)]
    kills = harms.kills + goal.round_kills
    load = Load(addresses, namespaces, clients=CLIENTS, seed=hash((goal.seed, turn)), name=f"{turn}-c", leased=True, pause_s=0.05)
    readers = Readers(harms.file(f"reads-{turn}"), addresses, namespaces)
    harms.load = load
    try:
        async with load:
            while harms.kills < kills and time.monotonic() < until_s:
                await load.progress(harms.rng.randint(1, PAUSE_COMMITS))
                await harms.harm()
            await load.progress(5)
    finally:
        readers.finish()
        for complaint in harms.complaints[:3]:
            print(complaint, file=sys.stderr)
    await account.add(load, readers, harms)


@contextlib.asynccontextmanager
async def _prepared(goal: argparse.Namespace) -> AsyncIterator[Harms]:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(own_cluster())
        redises = stack.enter_context(own_redis()), stack.enter_context(own_redis())
        database = await asyncio.to_thread(cluster.fresh, migrated)
        made = Harms(database, cluster, redises, directory, seed=goal.seed, without=goal.without)
        harms = stack.enter_context(contextlib.closing(made))
        await asyncio.gather(*(server.begin() for server in harms.servers))
        yield harms


def run() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.faults.long", description=__doc__.partition("\n")[0])
    arguments.add_argument("--kills", type=int, default=500, help="SIGKILLs of servers, Postgres and Redis")
    arguments.add_argument("--round-kills", type=int, default=20, help="clients are judged, and begin anew, after so many")
    arguments.add_argument("--reads", type=int, default=1_000_000, help="reads that are checked")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--minutes", type=float, default=60, help="the end, however many kills and reads there were")
    arguments.add_argument("--without", choices=sorted(PARTS), default="", help="a part of the cache protocol to do without")
    try:
        return asyncio.run(main(arguments.parse_args()))
    except AbsentError as absent:
        print(absent, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run())
