"""`make demo`, as a user runs it; and that its final check can also find something wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from examples.cognitive_manager import density_trail, frequent_directions, ledger
from examples.cognitive_manager import store as where
from examples.cognitive_manager.check import check
from examples.cognitive_manager.check_memories import check_memories
from examples.cognitive_manager.ledger import Share
from examples.cognitive_manager.manager import Manager
from examples.cognitive_manager.recall import SHORTLIST, recall
from examples.cognitive_manager.server_process import ServerProcess
from examples.cognitive_manager.state import ForeignNamespaceError
from examples.cognitive_manager.stream import Stream
from examples.cognitive_manager.tally import Acknowledged
from sfm_grpc.client import Client, Commit, IndexUnavailable, Namespace, NotFound, Unreachable
from tests.support.services.databases import Database
from tests.support.services.fixtures import FreshDatabase
from tests.support.services.kafka_fixtures import StartMockKafka
from tests.support.services.redis_fixtures import StartRedis
from tests.support.services.redis_server import RedisServer

ROOT = Path(__file__).parents[2]
DEMO = (sys.executable, "-m", "examples.cognitive_manager.demo")
KEYS = [
    "commits",
    "conflicts",
    "reads",
    "read_p50_ms",
    "read_p95_ms",
    "commit_p95_ms",
    "bytes_per_commit",
    "memories",
    "searches",
    "search_p95_ms",
    "recall_at_10",
    "pruned",
    "undone",
    "psd_ok",
    "trace_error",
    "min_eigenvalue_bound",
    "store",
    "servers",
    "kills",
]
BYTES_PER_COMMIT = 8 * (384 * 384 + 64 * 384 + 253)
TIMEOUT_S = 240


@dataclass(frozen=True)
class Store:
    """Where the demo is told to keep it all."""

    name: str
    environment: Mapping[str, str]
    database: Database | None = None

    def check(self, ran: subprocess.CompletedProcess[str]) -> None:
        """On Postgres it said what it did to the schema, and kept to a tenant of its own."""
        if self.database is None:
            return
        assert "sfm migrate: applied 1 (rho), 2 (cache), 3 (memories)" in ran.stderr
        with self.database.connect() as c:
            rows = c.execute("SELECT tenant, name FROM sfm.namespace ORDER BY name").fetchall()
        (tenant, namespace), *copy = rows
        assert copy == [(tenant, f"{namespace}-forgetting")]
        assert f"namespace {namespace!r} of tenant {tenant!r}" in ran.stderr
        assert tenant.startswith("demo-")


@pytest.fixture(scope="module")
def stream() -> Stream:
    return Stream.load()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as process:
        process.wait_ready()
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.target, name="test") as connected:
        yield connected


@pytest.fixture(params=["postgres", "sqlite"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each engine as a user has it: nothing is there yet."""
    if request.param == "sqlite":
        return Store("sqlite", {})
    database = request.getfixturevalue("fresh_database")()
    return Store(request.param, {"SFM_POSTGRES_URL": database.url}, database)


def run(*arguments: str, environment: Mapping[str, str] = MappingProxyType({})) -> subprocess.CompletedProcess[str]:
    """Runs it to its end, whatever that is."""
    process = subprocess.Popen(
        [*DEMO, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # SIGTERM, so that it takes its server and its managers with it.
        process.terminate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def demo(
    *arguments: str, environment: Mapping[str, str] = MappingProxyType({})
) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    """Runs it to its good end: the JSON of the last line, and all it said."""
    ran = run(*arguments, environment=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert list(told) == KEYS
    assert told["psd_ok"] is True
    assert told["trace_error"] < 1e-12
    assert -1e-12 < told["min_eigenvalue_bound"] <= 0
    # So few vectors are compared one by one: what search finds is exact.
    assert told["recall_at_10"] == 1.0
    assert told["pruned"] == told["undone"] == told["memories"] // 10
    return told, ran


# ---- as a user runs it


def test_demo_ends_well(store: Store) -> None:
    told, ran = demo("--batches", "16", environment=store.environment)
    assert (told["store"], told["servers"], told["kills"]) == (store.name, 1, 0)
    assert told["commits"] == 16
    assert told["conflicts"] > 0
    assert told["bytes_per_commit"] == BYTES_PER_COMMIT
    # Each manager reads once to begin, once for each batch and each conflict, three times after each commit; what is not
    # there yet is not counted (two reads of each manager at most).
    assert 0 <= 2 + 4 * 16 + told["conflicts"] - told["reads"] <= 4
    assert 0 < told["read_p50_ms"] <= told["read_p95_ms"]
    assert told["commit_p95_ms"] > 0
    # Three recalls after each commit, but for those before the index was open.
    assert (told["memories"], told["search_p95_ms"] > 0) == (8 * 16, True)
    assert 0 < told["searches"] <= 3 * 16
    assert "16/16 batches" in ran.stderr
    assert "\r" not in ran.stderr
    assert "json.dumps →" in ran.stdout
    store.check(ran)


def test_nothing_is_lost_when_the_server_is_killed_again_and_again() -> None:
    told, ran = demo("--batches", "14", "--kill-server-every", "0.3")
    assert "the server was killed and is back (1)" in ran.stderr
    assert told["kills"] >= 1
    assert (told["commits"], told["memories"]) == (14, 8 * 14)
    assert "14 batches once each" in ran.stdout


def test_of_two_servers_either_may_be_killed(store: Store) -> None:
    # The pauses give a server that starts again the time to: the managers do not wait for it.
    arguments = ["--servers", "2", "--kill-server-every", "0.1", "--batches", "40", "--pause", "0.3"]
    told, ran = demo(*arguments, environment=store.environment)
    assert (told["store"], told["servers"], told["commits"]) == (store.name, 2, 40)
    assert told["kills"] >= 2
    assert told["memories"] == 8 * 40
    assert told["searches"] > 0
    for server in ("server 1", "server 2"):
        assert f"{server} was killed, every manager went on without it, and it is back" in ran.stderr
    assert "40 batches once each" in ran.stdout
    assert "2 on one store; each answers version 40 with the same bits" in ran.stdout
    store.check(ran)


def test_pulling_redis_plug_fails_no_read_and_loses_no_commit(fresh_database: FreshDatabase, redis_server: StartRedis) -> None:
    redis = redis_server()
    given = {"SFM_POSTGRES_URL": fresh_database().url, "SFM_REDIS_URL": redis.url, "SFM_REDIS_SETTLE_S": "0.2"}
    pulled = threading.Thread(target=pull_the_plug, args=(redis,))
    pulled.start()
    told, ran = demo("--servers", "2", "--batches", "40", "--pause", "0.15", environment=given)
    pulled.join()
    assert "reads go through the Redis that SFM_REDIS_URL names" in ran.stderr
    assert (told["store"], told["servers"], told["commits"], told["memories"]) == ("postgres", 2, 40, 8 * 40)
    assert "40 batches once each" in ran.stdout
    assert "outages" not in ran.stdout, "no call went unanswered"


def test_it_prunes_through_both_doors(
    fresh_database: FreshDatabase, redis_server: StartRedis, mock_kafka: StartMockKafka
) -> None:
    given = {
        "SFM_POSTGRES_URL": fresh_database().url,
        "SFM_REDIS_URL": redis_server().url,
        "SFM_KAFKA_BOOTSTRAP": mock_kafka().bootstrap,
    }
    told, ran = demo("--batches", "20", environment=given)
    assert told["pruned"] == told["undone"] == 16
    assert "16 of 160, the lightest for ρ, by a call and a message" in ran.stdout


def pull_the_plug(redis: RedisServer) -> None:
    """Once it is in use: killed, back after a while, emptied, frozen, and gone for good."""
    deadline = time.monotonic() + TIMEOUT_S
    with redis.client() as client:
        while not client.keys("*:lease") and time.monotonic() < deadline:
            time.sleep(0.02)
    time.sleep(0.3)
    redis.kill()
    time.sleep(1.0)
    redis.start()
    time.sleep(1.0)
    with redis.client() as client:
        client.flushall()
    redis.freeze()
    time.sleep(1.0)
    redis.thaw()
    time.sleep(1.0)
    redis.kill()


def test_on_postgres_each_run_has_a_tenant_of_its_own(fresh_database: FreshDatabase) -> None:
    given = {"SFM_POSTGRES_URL": fresh_database().url, "SFM_POSTGRES_POOL_MAX": "3", "SFM_LISTEN": "127.0.0.1:1"}
    first, second = where.postgres(given), where.postgres(given)
    assert first.tenant != second.tenant
    assert first.steps[0].startswith("sfm migrate: applied 1 (rho)")
    assert second.steps[0].startswith("sfm migrate: nothing to apply")
    # Its servers tidy up the whole store: whatever others keep there must be theirs to drop.
    assert {"SFM_POSTGRES_POOL_MAX": "3", "SFM_RHO_HISTORY_AGE_S": "0"}.items() <= first.settings.items()
    assert "SFM_LISTEN" not in first.settings


def test_says_so_when_there_is_no_postgres() -> None:
    ran = run(environment={"SFM_POSTGRES_URL": "postgresql://demo:secret@127.0.0.1:1/demo"})
    assert ran.returncode == 1
    assert "demo: the store is not available: Postgres cannot be reached" in ran.stderr
    assert "secret" not in ran.stderr
    assert "Traceback" not in ran.stderr


def test_resumes_after_server_and_managers_were_killed_in_the_middle(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        server.wait_ready()
        first = subprocess.Popen([*DEMO, "--target", server.target], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_for_version(server.target, 10)
        server.kill()
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=TIMEOUT_S)
        assert first.returncode == 128 + signal.SIGTERM

        server.launch()
        server.wait_ready()
        with Client(server.target) as client:
            held = client.namespace("cognitive-manager").read()
        taken = ledger.trail(held["applied"])
        assert len(taken) == held.version >= 10

        batches = len(taken) + 8
        told, ran = demo("--target", server.target, "--batches", str(batches))
        assert told["commits"] == batches - len([b for _, b in taken if b < batches])
        assert f"resumed after {len(taken)} batches" in ran.stdout


def wait_for_version(target: str, version: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    with Client(target) as client:
        while time.monotonic() < deadline:
            try:
                if client.namespace("cognitive-manager").describe().version >= version:
                    return
            except NotFound:
                pass
            time.sleep(0.01)
    raise AssertionError(f"version {version} was not reached")


def test_says_so_when_nobody_answers() -> None:
    ran = run("--target", "127.0.0.1:1")
    assert ran.returncode == 1
    assert "demo: no answer from 127.0.0.1:1" in ran.stderr
    assert "Traceback" not in ran.stderr


# ---- the manager, and the check that judges it


class Lossy:
    """A namespace whose every third commit happens, and whose answer is lost."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._count = 0
        self.read = namespace.read

    def commit(self, *arguments: Any, **options: Any) -> Commit:
        commit = self._namespace.commit(*arguments, **options)
        self._count += 1
        if self._count % 3 == 0:
            raise Unreachable(target="test", problem="the answer was lost")
        return commit


def test_a_lost_answer_is_asked_for_again(client: Client, stream: Stream) -> None:
    acknowledged: list[Acknowledged] = []
    manager = Manager(
        Lossy(client.namespace("lossy")),  # type: ignore[arg-type]
        stream,
        name="test",
        share=Share(0, 1),
        batches=8,
        recalls=0,
        on_commit=acknowledged.append,
    )
    manager.run()
    assert manager.tally.commits == 8
    assert [(a.version, a.batch) for a in acknowledged] == [(i + 1, i) for i in range(8)]
    # The third call is batch 2, the fourth its repetition, the sixth batch 4, the ninth batch 6.
    assert [a.batch for a in acknowledged if a.replayed] == [2, 4, 6]
    verdict = check(client, "lossy", stream, 8, acknowledged)
    assert verdict.problems == []
    remembered = client.namespace("lossy").memories
    assert check_memories([remembered], stream, verdict.taken, verdict.rho).problems == []
    assert remembered.describe().revision == 64, "none was put twice"

    again = Manager(client.namespace("lossy"), stream, name="again", share=Share(0, 1), batches=8)
    again.run()
    assert (again.tally.commits, again.tally.reads) == (0, 1)


def test_check_finds_what_is_missing_and_what_was_bent(client: Client, stream: Stream) -> None:
    namespace = client.namespace("bent")
    Manager(namespace, stream, name="test", share=Share(0, 2), batches=6, recalls=0).run()
    assert check(client, "bent", stream, 6, []).problems == ["3 of 6 batches were not taken: [1, 3, 5]"]

    never = Acknowledged(version=9, batch=5, rho_digest="", replayed=False)
    problems = check(client, "bent", stream, 5, [never]).problems
    assert problems[1:] == ["acknowledged and lost: version 9 with batch 5"]

    def bend(snapshot: Any) -> dict[str, Any]:
        return {"rho": density_trail.follow(snapshot["rho"], stream.batch(100))}

    namespace.update(bend)
    problems = " | ".join(check(client, "bent", stream, 1, []).problems)
    assert "ρ is not what its batches make of it" in problems
    assert "version 4 is not what the ledger says of it" in problems


def test_check_finds_memories_that_are_missing_foreign_or_bent(client: Client, stream: Stream) -> None:
    namespace = client.namespace("forgetful")
    manager = Manager(namespace, stream, name="test", share=Share(0, 1), batches=3, recalls=2)
    manager.run()
    memories, rho = namespace.memories, namespace.read("rho")["rho"]
    sound = check_memories([memories], stream, [0, 1, 2], rho)
    assert (sound.problems, sound.memories, sound.recall_at_10) == ([], 24, 1.0)
    assert check_memories([memories], stream, [0, 1], rho).problems == [
        f"8 memories are there whose batches are not: {list(stream.names[16:21])}"
    ]
    memories.delete(stream.names[0])
    memories.update(stream.names[1], vector=stream.vectors[2])
    memories.update(stream.names[2], payload={"row": 2})
    assert check_memories([memories], stream, [0, 1, 2], rho).problems == [
        f"1 memories are missing: {[stream.names[0]]}",
        f"2 memories are not as they were put: {list(stream.names[1:3])}",
    ]


def test_recall_weighs_what_search_finds(client: Client, stream: Stream) -> None:
    namespace = client.namespace("weighed")
    puts = [put for batch in range(40) for put in stream.memories(batch)]
    assert all(receipt.indexed for receipt in namespace.memories.put_many(puts, wait_indexed_s=20))
    near = namespace.memories.search(stream.vectors[0], SHORTLIST, with_vectors=True)
    cosines = stream.vectors[:320] @ stream.vectors[0]
    nothing_seen = recall(near, density_trail.start(stream.dimension), but=stream.names[0])
    assert stream.names[0] not in [r.name for r in nothing_seen]
    assert [r.score for r in nothing_seen] == pytest.approx(sorted(np.square(cosines[1:]))[:-6:-1], abs=1e-6)
    # What was seen again and again of late comes first.
    last = nothing_seen[-1].name
    attention = np.outer(*[stream.vectors[stream.names.index(last)]] * 2)
    weighed = recall(near, attention, but=stream.names[0])
    assert (weighed[0].name, weighed[0].familiarity) == (last, pytest.approx(stream.dimension, rel=1e-5))


def test_a_manager_without_an_index_commits_all_the_same(client: Client, stream: Stream) -> None:
    manager = Manager(Unindexed(client.namespace("unindexed")), stream, name="test", share=Share(0, 1), batches=4)  # type: ignore[arg-type]
    manager.run()
    assert (manager.tally.commits, manager.tally.searches, manager.tally.without_index) == (4, 0, 1)
    assert client.namespace("unindexed").memories.describe().memories == 32


class Unindexed:
    """A namespace whose index is away."""

    def __init__(self, namespace: Namespace) -> None:
        self.read, self.commit, self.memories = namespace.read, namespace.commit, self

    def search(self, *_: Any, **__: Any) -> Any:
        raise IndexUnavailable(problem="it is away")


def test_a_namespace_of_something_else_is_left_alone(client: Client, stream: Stream) -> None:
    namespace = client.namespace("foreign")
    namespace.commit({"rho": np.eye(3) / 3}, expected_version=0)
    with pytest.raises(ForeignNamespaceError, match=r"\(3, 3\)"):
        Manager(namespace, stream, name="test", share=Share(0, 1), batches=1).run()
    assert namespace.describe().version == 1


# ---- what the replay rests on


def test_trail_is_exactly_symmetric_and_of_trace_one(stream: Stream) -> None:
    rho = density_trail.start(stream.dimension)
    for batch in (0, 1, stream.batches - 1):
        before, rho = rho, density_trail.follow(rho, stream.batch(batch))
        assert np.array_equal(rho, rho.T)
        assert abs(np.trace(rho) - 1) < 1e-14
        assert np.linalg.norm(rho - before) <= density_trail.STEP_MAX
    assert len(stream.batch(stream.batches - 1)) == 2019 % 8


def test_sketch_keeps_its_bound_and_goes_on_from_what_is_stored(stream: Stream) -> None:
    sketch = frequent_directions.start(stream.dimension)
    for batch in range(40):
        sketch = frequent_directions.absorb(sketch, stream.batch(batch))
        if batch % 10 == 9:
            seen = stream.vectors[: 8 * (batch + 1)]
            left = np.linalg.eigvalsh(seen.T @ seen - sketch.T @ sketch)
            assert left[0] > -1e-10
            assert left[-1] <= frequent_directions.error_bound(sketch, len(seen))
    at_once = frequent_directions.absorb(frequent_directions.start(stream.dimension), stream.vectors[:320])
    assert np.array_equal(at_once, sketch)
