"""`sfm migrate` as a deployment types it, and what `sfm serve` says before and after."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sfm_grpc.storage.postgres import migrate
from tests.support.cli import Served, here, run
from tests.support.services.databases import Database
from tests.support.services.fixtures import FreshDatabase, StartCluster

NEEDED = migrate.known()[-1].number
STEPS = [{"number": step.number, "name": step.name} for step in migrate.known()]
NO_SCHEMA = f"the database has no schema, this release needs {NEEDED}: run `sfm migrate`"
SERVE = ("serve", "--listen", "127.0.0.1:0", "--http-listen", "")
PASSWORD = "s3cret"


@pytest.fixture
def database(fresh_database: FreshDatabase) -> Database:
    """An empty one."""
    return fresh_database()


def told(database: Database) -> dict[str, str]:
    return {"SFM_POSTGRES_URL": database.url}


def applied(database: Database) -> list[int] | None:
    """None: there is no schema at all."""
    with database.connect() as c:
        if c.execute("SELECT to_regnamespace('sfm') IS NULL").fetchone() == (True,):
            return None
        return [number for (number,) in c.execute("SELECT number FROM sfm.migration ORDER BY number")]


# ---- migrate


def test_migrate_says_what_it_did_and_then_that_there_is_nothing_to_do(tmp_path: Path, database: Database) -> None:
    ran = run("migrate", cwd=tmp_path, env=told(database))
    *steps, state = ran.stdout.splitlines()
    assert steps == [f"applied {step['number']} ({step['name']})" for step in STEPS]
    assert state.startswith("Postgres at ")
    assert state.endswith(f"/{database.name} has schema {NEEDED}, which is what this release needs")
    assert "applying migration 1 (rho)" in ran.stderr
    again = run("migrate", cwd=tmp_path, env=told(database))
    assert (again.stdout, again.stderr) == (f"nothing to do: {state}\n", "")
    assert here("migrate", "--check", env=told(database)).stdout == f"nothing to do: {state}\n"


def test_migrate_and_check_in_json(database: Database) -> None:
    def said(*arguments: str, code: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(here("migrate", *arguments, "--json", code=code, env=told(database)).stdout)
        assert found.pop("data").endswith(f"/{database.name}")
        return found

    before = {"ok": False, "schema": 0, "needed": NEEDED, "applied": [], "pending": STEPS, "problem": NO_SCHEMA}
    after = {"ok": True, "schema": NEEDED, "needed": NEEDED, "applied": STEPS, "pending": [], "problem": ""}
    assert said("--check", code=1) == before
    assert applied(database) is None
    assert said() == after
    assert said("--check") == after | {"applied": []}


def test_check_says_why_not(tmp_path: Path, database: Database) -> None:
    older = run("migrate", "--check", code=1, cwd=tmp_path, env=told(database))
    assert older.stdout == ""
    assert older.stderr.endswith(f"/{database.name}: {NO_SCHEMA}\n")
    here("migrate", env=told(database))
    with database.connect() as c:
        c.execute("INSERT INTO sfm.migration (number, name, sha256) VALUES (%s, 'later', '')", (NEEDED + 1,))
    newer = f"the database has schema {NEEDED + 1}, this release knows up to {NEEDED}: run a newer release\n"
    assert here("migrate", "--check", code=1, env=told(database)).stderr.endswith(f"/{database.name}: {newer}")
    assert here("migrate", code=4, env=told(database)).stderr == f"sfm: cannot migrate: {newer}"


@pytest.mark.parametrize("arguments", [["migrate"], ["migrate", "--check"]], ids=" ".join)
def test_migrate_without_a_postgres(arguments: list[str], database: Database) -> None:
    unset = here(*arguments, code=2).stderr
    assert unset == "sfm: SFM_POSTGRES_URL is not set: the embedded store needs no migrating, it makes its own schema\n"
    assert "SFM_POSTGRES_URL is" in here(*arguments, code=2, env={"SFM_POSTGRES_ULR": "x"}).stderr
    nobody = here(*arguments, code=3, env={"SFM_POSTGRES_URL": f"postgresql://me:{PASSWORD}@127.0.0.1:1/sfm"}).stderr
    assert nobody.startswith("sfm: the store is not available: Postgres cannot be reached: ")
    assert PASSWORD not in nobody
    database.drop()
    dropped = here(*arguments, code=4, env=told(database)).stderr
    assert dropped.startswith("sfm: cannot migrate: Postgres: the user or the database does not exist; see SFM_POSTGRES_URL")
    assert all(len(said.splitlines()) == 1 for said in (unset, nobody, dropped))


# ---- serve


def test_serve_makes_no_schema_unless_it_is_told_and_then_all_may_start_together(tmp_path: Path, database: Database) -> None:
    assert run(*SERVE, code=2, cwd=tmp_path, env=told(database)).stderr == f"sfm: cannot serve: {NO_SCHEMA}\n"
    assert applied(database) is None

    def replica(directory: Path) -> Served:
        directory.mkdir()
        return Served(directory, "--migrate", **told(database))

    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as threads:
        for served in threads.map(replica, [tmp_path / "a", tmp_path / "b"]):
            stack.enter_context(served)
            status = served.json("status")
            assert (status["ok"], status["server"]["store"]) == (True, "postgres")
    assert applied(database) == [step["number"] for step in STEPS]


def test_serve_says_where_the_data_is_and_never_the_password(tmp_path: Path, postgres_cluster: StartCluster) -> None:
    cluster = postgres_cluster(password=PASSWORD, conf={"fsync": "off"})
    env = {"SFM_POSTGRES_URL": cluster.url()}
    assert PASSWORD in cluster.url()
    place = f"Postgres at 127.0.0.1:{cluster.port}/postgres"
    refused = run(*SERVE, "--migrate", code=2, cwd=tmp_path, env=env).stderr
    assert "cannot serve: Postgres may lose what it acknowledges (fsync = off): turn it on, or say --allow-unsafe" in refused
    with Served(tmp_path, "--migrate", "--allow-unsafe-durability", **env) as served:
        assert served.stdout.splitlines()[2] == f"data {place}"
        assert served.addresses["data"] == place
        assert "(fsync = off), and this was allowed" in served.stderr
        beside = [here(*arguments, env=env).stdout for arguments in (["migrate", "--check"], ["config"], ["config", "--json"])]
        beside.append(served.here("status").stdout)
        assert served.stop() == 0
        said = [refused, served.stdout, served.stderr, *served.addresses.values(), *beside]
    assert not any(PASSWORD in text for text in said)
