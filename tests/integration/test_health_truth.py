"""Health where much is wrong at once: damage in one namespace hides nothing of another, and what fails to look says so."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from sfm.v1 import health_pb2, rho_store_pb2

from sfm_grpc.app import App
from sfm_grpc.coordinator.health import RhoHealth
from sfm_grpc.coordinator.worst import WorstFirst
from sfm_grpc.errors import LimitExceeded, StoreUnavailable
from sfm_grpc.model import Entry, Kind, Scope, Version
from sfm_grpc.settings import Settings
from sfm_grpc.storage.sqlite import SqliteStore
from sfm_grpc.storage.sqlite import connection as sqlite_connection
from tests.conftest import Serve
from tests.support.drivers import Put
from tests.support.engines import Engine
from tests.support.matrices import density, sketch
from tests.support.messages import commit_of
from tests.support.refusals import refused
from tests.support.servers import Server, serving, until
from tests.support.transactions import N, putting, transaction

CANONICAL = rho_store_pb2.Freshness(consistency=rho_store_pb2.CONSISTENCY_CANONICAL)
OFTEN = pytest.mark.settings(http_listen="127.0.0.1:0", rho_verify_interval_s=0.05)
FEW = pytest.mark.settings(rho_verify_interval_s=0.05, rho_history_versions=2)


async def report(server: Server) -> Any:
    return await server.health.GetHealth(health_pb2.GetHealthRequest())


async def commit(server: Server, namespace: str, *seeds: int, start: int = 0) -> None:
    for place, seed in enumerate(seeds):
        await server.rho.CommitRho(commit_of(Put("rho", density(seed=seed)), expected=start + place, namespace=namespace))


def component(found: Any, name: str) -> Any:
    return next(c for c in found.components if c.name == name)


async def wrong(server: Server) -> list[str]:
    return [r.namespace for r in (await report(server)).rho if r.problem]


# ---- damage -----------------------------------------------------------------------------------------------------------


@OFTEN
@pytest.mark.parametrize("how", ["metadata", "bytes", "lost"])
async def test_a_damaged_row_is_named_and_the_others_are_still_looked_at_also_after_a_restart(
    serve: Serve, settings: Settings, engine: Engine, how: str
) -> None:
    async with serving(settings) as first:
        await commit(first, "a", 1, 2)
        await commit(first, "b", 3)
        engine.garble_version(settings, Scope("default", "a"), 2, how)
        await until(lambda: _wrong_are(first, ["a"]))
        engine.corrupt(settings, Scope("default", "b"), 1, "rho")
        await until(lambda: _wrong_are(first, ["a", "b"]))
    server = await serve(settings)
    assert "a" in await wrong(server)  # from what is recorded, before anything was read again
    await until(lambda: _wrong_are(server, ["a", "b"]))
    found = await report(server)
    assert {r.namespace: r.corrupt for r in found.rho} == {"a": True, "b": True}
    assert any("cannot be read" in r.problem for r in found.rho)
    refusal = await refused(server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="a", freshness=CANONICAL)))
    assert (refusal.reason, refusal.facts["damaged"]) == ("RHO_CORRUPT", "version")
    restore = rho_store_pb2.RestoreRhoRequest(namespace="a", expected_version=2, last_valid=rho_store_pb2.LastValid())
    assert (await server.rho.RestoreRho(restore)).restored_version == 1
    assert await wrong(server) == ["b"]


async def _wrong_are(server: Server, names: list[str]) -> bool:
    return sorted(await wrong(server)) == names


@OFTEN
async def test_a_verification_that_fails_as_a_whole_shows(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    await commit(server, "n", 1)
    assert component(await report(server), "verification").ok

    async def unable(**_: object) -> None:
        raise ValueError

    with monkeypatch.context() as patch:
        patch.setattr(server.app.store, "heads", unable)
        await until(lambda: _verification_is(server, ok=False))
        found = await report(server)
        assert (found.ok, found.ready) == (False, True)
        assert "ValueError" in component(found, "verification").detail
        assert (await server.http("/healthz")).status_code == 503
        assert (await server.http("/readyz")).status_code == 200
    await until(lambda: _verification_is(server, ok=True))
    assert (await report(server)).ok


async def _verification_is(server: Server, *, ok: bool) -> bool:
    return component(await report(server), "verification").ok is ok


@OFTEN
async def test_a_namespace_that_cannot_be_verified_is_told_and_keeps_nobody_from_the_others(
    server: Server, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await commit(server, "a", 1)
    await commit(server, "b", 2)
    body = server.app.store.body

    async def some(scope: Scope, *args: Any, **kwargs: Any) -> Any:
        if scope.namespace == "a":
            raise StoreUnavailable(problem="a bad page")
        return await body(scope, *args, **kwargs)

    monkeypatch.setattr(server.app.store, "body", some)
    await until(lambda: _verification_is(server, ok=False))
    assert "'a'" in component(await report(server), "verification").detail
    engine.corrupt(server.settings, Scope("default", "b"), 1, "rho")
    await until(lambda: _wrong_are(server, ["b"]))


@OFTEN
async def test_rotten_numbers_are_found_though_the_head_never_stands_still(server: Server, engine: Engine) -> None:
    await server.rho.CommitRho(commit_of(Put("rho", density()), Put("g", sketch(), kind=Kind.GENERIC)))
    engine.corrupt(server.settings, N, 1, "g")
    for version in range(1, 1000):
        await commit(server, "n", version, start=version)
        if await wrong(server):
            return
    pytest.fail("not found")


# ---- compaction -------------------------------------------------------------------------------------------------------


@FEW
async def test_nothing_is_compacted_while_the_head_is_corrupt(
    serve: Serve, settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest version may be the damaged one: what is older is all that is left, also right after a start."""
    monkeypatch.setattr("sfm_grpc.coordinator.housekeeping._PAUSE_S", 0.02)
    roomy = settings.model_copy(update={"rho_history_versions": 100})
    async with serving(roomy) as first:
        await commit(first, "n", 1, 2, 3, 4)
        await commit(first, "whole", 1, 2, 3, 4)
    engine.corrupt(settings, N, 4, "rho")
    server = await serve(settings)
    whole = Scope("default", "whole")
    await until(lambda: engine.versions(settings, whole) == [3, 4])
    await asyncio.sleep(0.2)
    assert engine.versions(settings, N) == [1, 2, 3, 4]
    await commit(server, "n", 5, start=4)
    await until(lambda: engine.versions(settings, N) == [4, 5])


# ---- many namespaces --------------------------------------------------------------------------------------------------


def version_of(number: int, put: Any, **changed: Any) -> Version:
    entry = Entry("rho", put.certificate, number)
    return Version(number, 1, "", {}, True, 0, (entry,), ("rho",), **changed)


async def test_the_report_costs_the_same_however_many_namespaces_there_are(settings: Settings) -> None:
    app = App(settings)
    health: RhoHealth = app.rho_health
    put, change = putting("rho", density()), transaction()
    for place in range(20_000):
        health.committed(Scope("t", f"n{place}"), version_of(1, put), change)
    for place in range(3_000):
        health.committed(Scope("t", f"n{place}"), version_of(2, put, unreadable="metadata"), change)
    begun = time.perf_counter()
    for turn in range(100):
        health.committed(Scope("t", "n5"), version_of(3 + turn, put), change)
        found = health.report()
    assert (time.perf_counter() - begun) / 100 < 0.005
    assert (found.namespaces, found.wrong, found.corrupt, found.psd_ok, len(found.worst)) == (20_000, 2_999, 2_999, False, 20)
    assert not any(state.ok for state in found.worst)
    for place in range(3_000):
        health.committed(Scope("t", f"n{place}"), version_of(200, put), change)
    found = health.report()
    assert (found.ok, found.wrong, found.corrupt, found.trace_error) == (True, 0, 0, put.certificate.trace_error)


def test_a_ranking_keeps_its_order_while_ranks_change() -> None:
    ranking: WorstFirst[int] = WorstFirst()
    for turn in range(5):
        for item in range(1000):
            ranking.put(item, (float((item * 7 + turn) % 1000), 0.0))
    for item in range(0, 1000, 2):
        ranking.drop(item)
    ranks = sorted((((item * 7 + 4) % 1000), item) for item in range(1, 1000, 2))
    assert ranking.first(20) == [item for _, item in ranks[:20]]
    assert ranking.first(20) == ranking.first(20)
    assert len(ranking) == 500


# ---- verification's cost ----------------------------------------------------------------------------------------------


async def test_verification_reads_one_body_at_a_time_and_rests_as_long_as_it_works(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = App(settings)  # not entered: nothing else sleeps
    store, read, slept = app.store, app.store.read, []
    await store.open()
    await store.commit(transaction(*(putting(f"k{place:02}", density(seed=place)) for place in range(8))))
    readings: list[Any] = []

    async def counted(*args: Any, **kwargs: Any) -> Any:
        readings.append(await read(*args, **kwargs))
        return readings[-1]

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    with monkeypatch.context() as patch:
        patch.setattr(store, "read", counted)
        patch.setattr("sfm_grpc.coordinator.health.asyncio.sleep", sleep)
        begun = time.monotonic()
        assert await app.rho_health.verify_all(pause_max_s=60) == ""
        assert [len(reading.numbers) for reading in readings] == [0]
        assert 0 < slept[0] <= time.monotonic() - begun
        await app.rho_health.verify_all(pause_max_s=1e-6)
        assert slept[1:] == [1e-6]
    assert app.rho_health.verifications == 16
    await store.close()


# ---- the store --------------------------------------------------------------------------------------------------------


async def test_a_store_that_does_not_answer_is_not_ready(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfm_grpc.coordinator.presence._CHECK_TIMEOUT_S", 0.05)

    async def never() -> str:
        await asyncio.sleep(60)
        return ""

    monkeypatch.setattr(server.app.store, "check", never)
    assert not await server.app.presence.look()
    found = server.app.truth.report()
    assert not found.ready
    assert "does not answer within 0.05 s" in found.components[0].detail


@pytest.mark.engines("sqlite")
async def test_a_check_waits_for_no_reader(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    await commit(server, "n", 1)
    monkeypatch.setattr("sfm_grpc.storage.sqlite.reads.read", lambda *_, **__: time.sleep(1))
    reads = [asyncio.create_task(server.app.store.read(N)) for _ in range(4)]
    await asyncio.sleep(0.05)
    begun = time.monotonic()
    assert await server.app.presence.look()
    assert time.monotonic() - begun < 0.5
    await asyncio.gather(*reads)


@pytest.mark.engines("sqlite")
@pytest.mark.parametrize("harm", ["gone", "replaced", "read-only"])
async def test_a_file_that_is_gone_or_cannot_be_written_is_noticed(
    server: Server, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await commit(server, "n", 1)
    path: Path = server.settings.data_dir.absolute() / "sfm.db"
    aside = path.with_name("aside.db")
    if harm == "read-only":
        monkeypatch.setattr("sfm_grpc.storage.sqlite.engine.os.access", lambda *_: False)  # root may write anywhere
    else:
        os.rename(path, aside)
        if harm == "replaced":
            shutil.copy(aside, path)
    assert not await server.app.presence.look()
    detail = server.app.truth.report().components[0].detail
    assert ("read-only" if harm == "read-only" else "gone or was replaced") in detail
    if harm == "read-only":
        monkeypatch.undo()
    else:
        os.replace(aside, path)
    assert await server.app.presence.look()


class Failing(sqlite3.Connection):
    """A connection that cannot roll back."""

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql == "ROLLBACK":
            raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *args)


async def test_a_writer_that_cannot_roll_back_is_replaced(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "sfm.db", keys_per_namespace_max=1)
    await store.open()
    failing = sqlite3.connect(tmp_path / "sfm.db", isolation_level=None, check_same_thread=False, factory=Failing)
    assert store._writer is not None
    store._writer.close()
    store._writer = failing
    with pytest.raises(LimitExceeded):
        await store.commit(transaction(putting("a", density()), putting("b", density())))
    assert store._writer is not failing
    with contextlib.closing(sqlite3.connect(tmp_path / "sfm.db", timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # nobody holds the lock
        other.execute("ROLLBACK")
    assert (await store.commit(transaction(putting("a", density())))).number == 1
    await store.close()


@pytest.mark.parametrize("name", ["NOMEM", "PROTOCOL", "LOCKED", "PERM", "IOERR_READ", "FULL"])
def test_what_the_machine_refuses_is_unavailable(name: str) -> None:
    error = sqlite3.OperationalError("x")
    error.sqlite_errorname = f"SQLITE_{name}"
    with pytest.raises(StoreUnavailable), sqlite_connection.translated():
        raise error
    with pytest.raises(StoreUnavailable, match="memory"), sqlite_connection.translated():
        raise MemoryError


async def test_a_value_larger_than_the_store_takes_is_a_limit(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "sfm.db", keys_per_namespace_max=9)
    await store.open()
    assert store._writer is not None
    store._writer.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 5000)
    with pytest.raises(LimitExceeded) as caught:
        await store.commit(transaction(putting("a", density(64))))
    assert caught.value.limit == "sqlite_value_bytes_max"
    assert store.peek(N) == 0
    await store.close()
