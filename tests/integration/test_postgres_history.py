"""A backup restored under running servers, a standby that missed the last commits: what the store holds now is the truth."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from sfm_grpc.coordinator import health
from sfm_grpc.coordinator.health import RhoState
from sfm_grpc.errors import NotFound, StepTooLarge, StoreUnavailable, VersionConflict
from sfm_grpc.model import Kind, Scope
from sfm_grpc.settings import Settings
from tests.support.drivers import Ask, Delete, InProcess, Put, put
from tests.support.engines import Engine
from tests.support.matrices import Array, density

N = Scope("default", "n")
POSTGRES = pytest.mark.engines("postgres")
pytestmark = pytest.mark.settings(rho_verify_interval_s=3600)  # tests verify when they want it verified


class Backup:
    """All rows as they were when it was made, and back again under whoever is connected."""

    def __init__(self, settings: Settings) -> None:
        assert settings.postgres_url is not None
        self._url = settings.postgres_url.get_secret_value()
        with psycopg.connect(self._url) as c:
            names = c.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'sfm' AND tablename <> 'migration'")
            self._tables = [name for (name,) in names]
            self._do(c, "CREATE SCHEMA backup", *(f"CREATE TABLE backup.{t} AS TABLE sfm.{t}" for t in self._tables))

    def restore(self) -> None:
        with psycopg.connect(self._url) as c:
            for table in self._tables:
                insert = f"INSERT INTO sfm.{table} OVERRIDING SYSTEM VALUE SELECT * FROM backup.{table}"
                self._do(c, f"DELETE FROM sfm.{table}", insert)

    def _do(self, connection: psycopg.Connection[Any], *statements: str) -> None:
        for statement in statements:
            connection.execute(statement)


def dead(version: int) -> Array:
    return density(seed=1000 + version)


def living(version: int) -> Array:
    return density(seed=2000 + version)


async def write(driver: InProcess, matrix: Callable[[int], Array], first: int, last: int, namespace: str = "n") -> None:
    for version in range(first, last + 1):
        await put(driver, namespace, version - 1, Put("rho", matrix(version)))


@pytest.fixture
async def one(settings: Settings) -> AsyncIterator[InProcess]:
    """The process that saw what is gone."""
    driver = InProcess(settings)
    await driver.open()
    yield driver
    await driver.close()


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[InProcess]:
    """The process that commits what is there instead."""
    driver = InProcess(settings)
    await driver.open()
    yield driver
    await driver.close()


@pytest.fixture
async def backup(one: InProcess) -> Backup:
    """Restored at version 5, after `one` committed 6 to 8 and read them."""
    await write(one, living, 1, 5)
    backup = Backup(one.settings)
    await write(one, dead, 6, 8)
    await put(one, "late", 0, Put("rho", dead(1)))
    assert (await one.get("n"))["rho"].numbers == dead(8).tobytes()
    await one.app.rho_health.verify_all()
    backup.restore()
    return backup


def known(driver: InProcess, scope: Scope = N) -> RhoState:
    state = driver.app.rho_health.state(scope)
    assert state is not None
    return state


async def numbers(driver: InProcess, **how: Any) -> tuple[int, bool, bytes | None]:
    found = await driver.get("n", **how)
    return found.version, found.cached, found["rho"].numbers


# ---- reads ------------------------------------------------------------------------------------------------------------


@POSTGRES
async def test_a_version_that_is_gone_is_not_served_and_the_head_that_is_there_is_kept(
    one: InProcess, other: InProcess, backup: Backup
) -> None:
    await write(other, living, 6, 7)
    with pytest.raises(NotFound) as caught:
        await one.get("n", version=8)
    assert (caught.value.what, caught.value.current) == ("version", 7)
    assert await numbers(one) == (7, False, living(7).tobytes())
    # Though its number is below the dead one's, it is in memory now: no read fetches it again.
    assert await numbers(one) == (7, True, living(7).tobytes())
    assert await numbers(one, version=7) == (7, True, living(7).tobytes())
    assert await numbers(one, version=6) == (6, False, living(6).tobytes())


@POSTGRES
@pytest.mark.parametrize("how", [{}, {"version": 8}, {"canonical": True}])
async def test_of_two_versions_of_one_number_the_stores_is_served(
    one: InProcess, other: InProcess, backup: Backup, how: dict[str, Any]
) -> None:
    await write(other, living, 6, 8)
    assert await numbers(one, **how) == (8, False, living(8).tobytes())
    assert await numbers(one, version=8) == (8, "version" not in how, living(8).tobytes())


@POSTGRES
@pytest.mark.parametrize("how", [{}, {"version": 8}])
async def test_after_any_read_a_step_is_measured_from_what_the_store_holds(
    one: InProcess, other: InProcess, backup: Backup, how: dict[str, Any]
) -> None:
    await write(other, living, 6, 8)
    await one.get("n", **how)
    with pytest.raises(StepTooLarge):
        await put(one, "n", 8, Put("rho", dead(8), max_step=1e-9))
    done = await put(one, "n", 8, Put("rho", living(8), max_step=1e-9))
    assert (done.version, done["rho"].step) == (9, 0.0)


@POSTGRES
async def test_a_commit_over_a_version_that_is_gone_is_a_conflict_and_one_over_the_head_is_kept(
    one: InProcess, backup: Backup
) -> None:
    with pytest.raises(VersionConflict):
        await put(one, "n", 8, Put("rho", dead(9)))
    await write(one, living, 6, 6)
    assert await numbers(one) == (6, True, living(6).tobytes())


# ---- without the store ------------------------------------------------------------------------------------------------


async def _not_found(driver: InProcess) -> None:
    with pytest.raises(NotFound):
        await driver.get("n", version=7)


async def _another_one(driver: InProcess) -> None:
    await driver.get("n", version=8)


async def _a_commit(driver: InProcess) -> None:
    await driver.commit(Ask(namespace="n", expected=5), Delete("rho"))


@POSTGRES
@pytest.mark.parametrize(("last", "look"), [(6, _not_found), (8, _another_one), (5, _a_commit)])
async def test_what_is_known_to_be_dead_is_not_served_either_where_staleness_is_accepted(
    one: InProcess, other: InProcess, backup: Backup, engine: Engine, last: int, look: Callable[[InProcess], Any]
) -> None:
    await write(other, living, 6, last)
    await look(one)
    with engine.unplugged(one.settings), pytest.raises(StoreUnavailable):
        await one.get("n", max_staleness_s=3600)


@POSTGRES
async def test_a_namespace_that_is_gone_is_forgotten(one: InProcess, backup: Backup, engine: Engine) -> None:
    with pytest.raises(NotFound):
        await one.get("late")
    with engine.unplugged(one.settings), pytest.raises(StoreUnavailable):
        await one.get("late", max_staleness_s=3600)


@POSTGRES
async def test_a_slow_reading_does_not_take_back_what_was_committed_meanwhile(
    one: InProcess, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(one, living, 1, 1)
    read, asked, go = one.app.store.read, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **kwargs: Any) -> Any:
        found = await read(*args, **kwargs)
        asked.set()
        await go.wait()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(one.app.store, "read", slow)
        reading = asyncio.create_task(one.get("n"))
        await asked.wait()
    await write(one, living, 2, 2)
    go.set()
    assert (await reading).version == 1
    with engine.unplugged(one.settings):
        assert await numbers(one, max_staleness_s=3600) == (2, True, living(2).tobytes())


# ---- health -----------------------------------------------------------------------------------------------------------


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the health of ρ warned of; that one of two servers of a file is without the file's vectors is told elsewhere."""
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    return [record.getMessage() for record in warnings if record.name == health.__name__]


@POSTGRES
@pytest.mark.parametrize("last", [5, 7, 8])
async def test_health_learns_the_head_that_is_there_verifies_it_and_says_so_once(
    one: InProcess, other: InProcess, backup: Backup, caplog: pytest.LogCaptureFixture, last: int
) -> None:
    await write(other, living, 6, last)
    assert known(one).version.version == 8
    caplog.clear()
    for _ in range(2):
        assert await one.app.rho_health.verify_all() == ""
    state = known(one)
    assert (state.version.version, state.ok, state.verify_time_us > 0) == (last, True, True)
    assert state.version.entries[0].certificate == (await other.get("n"))["rho"].certificate
    assert one.app.rho_health.is_whole(N)
    assert one.app.rho_health.state(Scope("default", "late")) is None
    assert (one.app.rho_health.ok, one.app.rho_health.report().namespaces) == (True, 1)
    replaced = "the history of 'n' (tenant 'default') was replaced: it was at version 8, and is at version"
    gone = "the history of 'late' (tenant 'default') was replaced: it was at version 1, and is gone"
    assert told(caplog) == [f"{replaced} {last}", gone]


@POSTGRES
async def test_a_certificate_that_changed_is_told_after_a_history_was_replaced_too(
    one: InProcess, other: InProcess, backup: Backup, engine: Engine
) -> None:
    await write(other, living, 6, 8)
    await one.app.rho_health.verify_all()
    engine.garble(one.settings, N, 8, "rho")
    await one.app.rho_health.verify_all()
    assert known(one).problem == "rho: the stored certificate of 'rho' changed"


async def test_a_slow_scan_does_not_take_back_what_was_committed_meanwhile(
    one: InProcess, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await write(one, living, 1, 1)
    heads = one.app.store.heads

    async def slow(**asked: Any) -> Any:
        found = await heads(**asked)
        await write(one, living, 2, 2)
        await write(one, living, 1, 1, namespace="new")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(one.app.store, "heads", slow)
        assert await one.app.rho_health.verify_all() == ""
    assert (known(one).version.version, known(one, Scope("default", "new")).version.version) == (2, 1)
    assert told(caplog) == []


async def test_what_was_committed_here_is_known_again_when_it_is_read(
    one: InProcess, other: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """On every engine, whatever a record says: otherwise each look would find another history."""
    said = Ask(namespace="n", expected=0, metadata={"ρ": "\x00 'a'\n", "empty": ""}, committer="ü")
    await one.commit(said, Put("rho", density()), Put("b", density(seed=2), kind=Kind.GENERIC))
    await put(one, "n", 1, Delete("b"))
    assert (await one.restore(Ask(namespace="n", expected=2), 1)).version == 3
    await other.app.rho_health.verify_all()
    await put(other, "n", 3, Put("rho", density(seed=3)))
    for driver in (one, other, one, other):
        await driver.app.rho_health.verify_all()
        assert (known(driver).version.version, known(driver).ok) == (4, True)
    assert told(caplog) == []
