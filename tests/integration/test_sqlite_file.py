"""The embedded store's file: what it is, whose it is, and what is said when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import grpc
import pytest
from sfm.v1 import rho_store_pb2

from sfm_grpc.app import App
from sfm_grpc.errors import StoreUnavailable
from sfm_grpc.storage.sqlite.connection import APPLICATION_ID, SCHEMA_VERSION, connect
from tests.conftest import Serve
from tests.support.drivers import Put
from tests.support.engines.sqlite import Sqlite
from tests.support.matrices import density
from tests.support.messages import commit_of, seed
from tests.support.refusals import refused
from tests.support.servers import serving, settings_for

pytestmark = pytest.mark.engines("sqlite")


async def refusal_of(directory: Path) -> str:
    """Why a server does not start there."""
    with pytest.raises(StoreUnavailable) as caught:
        await App(settings_for(data_dir=directory)).__aenter__()
    return str(caught.value)


def pragma(path: Path, name: str) -> object:
    with contextlib.closing(connect(path)) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


async def test_it_is_one_file_with_a_log_that_survives_power_cuts(tmp_path: Path) -> None:
    async with serving(settings_for(data_dir=tmp_path / "a" / "b")) as server:
        await seed(server.rho)
        path = tmp_path / "a" / "b" / "sfm.db"
        assert (pragma(path, "journal_mode"), pragma(path, "synchronous")) == ("wal", 2)  # 2: FULL
        assert (pragma(path, "application_id"), pragma(path, "user_version")) == (APPLICATION_ID, SCHEMA_VERSION)
    # Closed properly, everything is in the one file.
    assert {p.name for p in path.parent.iterdir()} == {"sfm.db", "vectors"}


async def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "sfm.db")) as other:
        other.execute("CREATE TABLE theirs (x)")
    assert "is a database of something else" in await refusal_of(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "sfm.db")) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("theirs",)]


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sfm.db").write_text("dear diary, " * 2000)
    assert "not an SQLite database" in await refusal_of(tmp_path)
    assert (tmp_path / "sfm.db").read_text().startswith("dear diary")


async def test_a_newer_schema_is_refused_with_both_numbers(tmp_path: Path) -> None:
    async with serving(settings_for(data_dir=tmp_path)):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "sfm.db")) as file:
        file.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    assert f"has schema {SCHEMA_VERSION + 1}, this release needs {SCHEMA_VERSION}" in await refusal_of(tmp_path)


async def test_a_directory_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be created" in await refusal_of(tmp_path / "file" / "data")


async def test_two_servers_may_create_the_file_at_once(tmp_path: Path, serve: Serve) -> None:
    servers = await asyncio.gather(*(serve(settings_for(data_dir=tmp_path)) for _ in range(3)))
    for place, server in enumerate(servers):
        assert (await server.rho.CommitRho(commit_of(Put("rho", density()), expected=place))).version == place + 1


async def test_a_writer_that_holds_the_file_too_long_is_told_with_when_to_retry(tmp_path: Path, serve: Serve) -> None:
    with Sqlite().patience(0.2):
        server = await serve(settings_for(data_dir=tmp_path))
    await seed(server.rho)
    with Sqlite().busy(server.settings):
        refusal = await refused(server.rho.CommitRho(commit_of(Put("rho", density()), expected=1, request_id="r")))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert "another process holds the file's write lock" in refusal.message
        assert refusal.facts["outcome_unknown"] == "false"
        assert refusal.retry_delay_s > 0
        assert (await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n"))).version == 1
    done = await server.rho.CommitRho(commit_of(Put("rho", density()), expected=1, request_id="r"))
    assert (done.version, done.replayed) == (2, False)
