"""SQL files: every statement has a name, a use, and is SQL."""

from __future__ import annotations

import re
import sqlite3

import pytest

from sfm_grpc.storage import statements
from tests.support.paths import SOURCE

SQLITE = "sfm_grpc.storage.sqlite"
FILES = ["commit.sql", "reads.sql", "housekeeping.sql"]


@pytest.fixture
def database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript(statements.text(SQLITE, "schema.sql"))
    return connection


@pytest.mark.parametrize("file", FILES)
def test_every_statement_is_sql_for_the_schema(file: str, database: sqlite3.Connection) -> None:
    found = statements.load(SQLITE, file)
    assert found
    for name, sql in found.items():
        named = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
        database.execute(f"EXPLAIN {sql}", named or [1] * sql.count("?")).fetchall()
        assert ";" not in re.sub(r"--.*", "", sql), f"{name} is more than one statement"
    database.close()


@pytest.mark.parametrize("file", FILES)
def test_every_statement_is_named_once_and_used(file: str) -> None:
    names = re.findall(r"^-- name: (.*)$", statements.text(SQLITE, file), re.MULTILINE)
    assert sorted(names) == sorted(set(names)) == sorted(statements.load(SQLITE, file))
    code = "".join(path.read_text() for path in (SOURCE / "storage" / "sqlite").glob("*.py"))
    assert [name for name in names if f'"{name}"' not in code] == []


def test_no_statement_is_written_in_python() -> None:
    """Pragmas and transactions are the connection's own business; what touches tables stands in the SQL files."""
    code = "".join(path.read_text() for path in (SOURCE / "storage").rglob("*.py"))
    written = re.findall(r'"(?:SELECT|INSERT|UPDATE|DELETE|CREATE)\b[^"]*"', code)
    assert set(written) <= {'"SELECT COUNT(*) FROM sqlite_master"'}


@pytest.mark.parametrize("statement", ["find_head", "find_version", "list_entries", "peek", "find_request", "list_versions"])
def test_what_every_call_asks_is_looked_up_and_not_searched(statement: str, database: sqlite3.Connection) -> None:
    found = statements.load(SQLITE, "commit.sql") | statements.load(SQLITE, "reads.sql")
    sql = found[statement]
    named = dict.fromkeys(re.findall(r":(\w+)", sql), 1)
    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}", named or [1] * sql.count("?"))]
    database.close()
    assert plan
    assert not [step for step in plan if step.startswith("SCAN")], plan
