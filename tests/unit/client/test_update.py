"""The update loop: no update is lost, none is done twice, `fn` always sees the newest numbers."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from sfm_grpc.client import AsyncClient, Client, DeadlineExceeded, Factor, MemoryPut, NotFound, VersionConflict
from sfm_grpc.errors import StoreUnavailable
from tests.unit.client.test_reads import rho


def counted(snapshot):
    count = snapshot.get("count")
    return {"count": np.zeros((1, 1)) if count is None else count + 1}


@pytest.fixture
def namespace(client):
    return client.namespace("agent-7")


def test_the_first_update_makes_the_namespace(server, namespace) -> None:
    seen = []

    def first(snapshot):
        seen.append((snapshot.version, len(snapshot)))
        return {"rho": rho()}

    done = namespace.update(first, metadata={"a": "b"}, max_step=0.5, kinds={"rho": "density"})
    assert seen == [(0, 0)]
    assert done.version == 1
    request = server.seen[-1].request
    assert (request.expected_version, dict(request.metadata), request.updates[0].max_step) == (0, {"a": "b"}, 0.5)


def test_updates_in_a_row_move_no_numbers_down(server, namespace) -> None:
    for _ in range(4):
        namespace.update(counted)
    assert namespace.read()["count"][0, 0] == 3
    assert all(r.reply_bytes < 100 for r in server.calls("GetRho"))


def test_none_stops(server, namespace) -> None:
    assert namespace.update(lambda snapshot: None) is None
    assert not server.calls("CommitRho")


def test_memories_go_along_with_every_attempt(server, connect, namespace) -> None:
    rival = Client(server.target, name="rival").namespace("agent-7")

    def beaten(snapshot):
        if snapshot.version == 0:
            rival.update(counted)
        return counted(snapshot)

    once = (MemoryPut(key, 1, coordinates=iter([1.0, 2.0])) for key in "ab")
    assert namespace.update(beaten, memories=once).version == 2
    commits = [c.request for c in server.calls("CommitRho")]
    told = [[(m.put.memory.key, list(m.put.memory.coordinates)) for m in commit.memories] for commit in commits]
    both = [("a", [1.0, 2.0]), ("b", [1.0, 2.0])]
    assert told == [[], both, both]


def test_a_faster_writer_is_noticed_and_nothing_lost(server, connect, namespace) -> None:
    namespace.update(counted)
    rival = Client(server.target, name="rival").namespace("agent-7")
    met = []

    def beaten(snapshot):
        met.append(snapshot.version)
        if len(met) < 4:
            rival.update(counted)
        return counted(snapshot)

    done = namespace.update(beaten)
    assert met == [1, 2, 3, 4]
    assert done.version == 5
    assert namespace.read()["count"][0, 0] == 4
    commits = [c.request for c in server.calls("CommitRho")]
    assert len({c.request_id for c in commits}) == len(commits)


def test_attempts_are_bounded(server, namespace) -> None:
    namespace.update(counted)
    rival = Client(server.target).namespace("agent-7")
    calls = []

    def beaten(snapshot):
        calls.append(snapshot.version)
        rival.update(counted)
        return counted(snapshot)

    with pytest.raises(VersionConflict):
        namespace.update(beaten, attempts=3)
    assert len(calls) == 3
    with pytest.raises(Exception, match="attempts: 0 is not at least 1"):
        namespace.update(counted, attempts=0)


def test_the_whole_is_bounded_by_timeout_s(server, namespace) -> None:
    namespace.update(counted)
    with pytest.raises(DeadlineExceeded) as caught:
        namespace.update(lambda snapshot: time.sleep(0.15) or counted(snapshot), timeout_s=0.1)
    assert caught.value.deadline_ms == 100
    assert len(server.calls("CommitRho")) == 1


def test_errors_of_fn_come_through(server, namespace) -> None:
    with pytest.raises(ZeroDivisionError):
        namespace.update(lambda snapshot: 1 / 0)
    with pytest.raises(RuntimeError):
        namespace.update(lambda snapshot: next(iter(())))
    assert not server.calls("CommitRho")


def test_an_unknown_outcome_is_not_tried_again_as_another_commit(server, namespace) -> None:
    def down(seen, context):
        if seen.method == "CommitRho":
            raise StoreUnavailable(problem="gone", outcome_unknown=True)

    server.before = down
    with pytest.raises(StoreUnavailable):
        namespace.update(counted)
    assert len({c.request.request_id for c in server.calls("CommitRho")}) == 1


def test_chosen_keys_some_of_them_absent(server, namespace, connect) -> None:
    connect().namespace("agent-7").commit({"a": rho(), "c": rho(1)}, expected_version=0)
    met = []

    def add(snapshot):
        met.append((snapshot.version, list(snapshot)))
        return {"b": rho(2)}

    namespace.update(add, keys=["a", "b"])
    assert met == [(1, ["a"])]
    namespace.update(add, keys=["a", "b"])
    assert met[1] == (2, ["a", "b"])
    assert server.calls("GetRho")[-1].reply_bytes < 100


def test_other_absences_are_errors(server, namespace) -> None:
    namespace.update(counted)
    del server.namespaces["agent-7"]
    with pytest.raises(NotFound):
        namespace.update(counted)


# ---- the handle on ρ -----------------------------------------------------------------------------------------------


def test_rho_alone(server, client) -> None:
    handle = client.rho("agent-7")
    given = []

    def step(value):
        given.append(value)
        return rho(len(given))

    handle.update(step)
    handle.update(step)
    assert given[0] is None
    assert given[1].tobytes() == rho(1).tobytes()
    assert handle.update(lambda value: None) is None
    assert handle.read()["rho"].tobytes() == rho(2).tobytes()
    assert list(server.calls("GetRho")[-1].request.keys) == ["rho"]
    assert handle.commit(rho(5), expected_version=2, metadata={"a": "b"}).version == 3
    assert handle.namespace.name == "agent-7"


def test_rho_beside_other_keys(client) -> None:
    namespace = client.namespace("agent-7")
    namespace.commit({"other": rho(1)}, expected_version=0)
    assert client.rho("agent-7").update(lambda value: rho() if value is None else value).version == 2


def test_rho_as_a_factor_stays_one(client) -> None:
    handle = client.rho("agent-7")
    handle.commit(Factor(rho(0, 4)[:2]), expected_version=0)
    handle.update(lambda value: Factor(value.s * 2))
    snapshot = handle.read()
    assert snapshot["rho"].tobytes() == (rho(0, 4)[:2] * 2).tobytes()
    assert isinstance(snapshot.value("rho"), Factor)


# ---- at once -------------------------------------------------------------------------------------------------------


def test_threads_that_share_a_client_lose_nothing(server) -> None:
    with Client(server.target) as client:
        namespace = client.namespace("n")
        threads = [
            threading.Thread(target=lambda: [namespace.update(counted, attempts=200) for _ in range(10)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert namespace.read()["count"][0, 0] == 39


async def test_tasks_that_share_a_client_lose_nothing(server) -> None:
    async with AsyncClient(server.target) as client:
        namespace = client.namespace("n")

        async def later(snapshot):
            await asyncio.sleep(0)
            return counted(snapshot)

        async def work():
            for _ in range(5):
                await namespace.update(later, attempts=200)

        await asyncio.gather(*(work() for _ in range(4)))
        assert (await namespace.read())["count"][0, 0] == 19
        assert (await anext(namespace.versions())).version == 20
