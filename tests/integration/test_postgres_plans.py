"""What every call asks of Postgres is looked up and not searched, however much there is: 20 000 namespaces, 1 000 versions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from sfm_grpc.storage import statements
from tests.support.engines.postgres import migrated
from tests.support.plans import plan_of, rows_read, searched
from tests.support.services.databases import Postgres

PACKAGE = "sfm_grpc.storage.postgres"
COMMIT, READS, KEEPING, OUTBOX = (
    statements.load(PACKAGE, f"{name}.sql") for name in ("commit", "reads", "housekeeping", "outbox")
)
SQL = READS | KEEPING | COMMIT | {f"outbox_{name}": text for name, text in OUTBOX.items()}
PUTS = 2
for name, head in (("advancing", "advance"), ("creating", "create")):
    bodies = ", ".join(COMMIT["body"].replace("{i}", str(i)) for i in range(PUTS))
    SQL[name] = COMMIT["commit"].replace("{head}", COMMIT[head]).replace("{bodies}", bodies)

NAMESPACES, VERSIONS, KEYS, REQUESTS, EVENTS = 20_000, 1_000, 4, 50_000, 50_000

# The first namespace has a long history of several keys, each version putting one of them; the others have one version.
_FILL = [
    """INSERT INTO sfm.namespace (tenant, name, version, oldest, commit_id, keys, put_versions, compactions)
    SELECT 'default', 'n' || to_char(i, 'FM00000'), 1, 1, i, '{rho}', '{1}', 0 FROM generate_series(1, %(namespaces)s) i""",
    """UPDATE sfm.namespace SET version = %(versions)s, keys = %(keys)s::text[],
      put_versions = ARRAY(SELECT %(versions)s - k FROM generate_series(0, cardinality(%(keys)s::text[]) - 1) k)
    WHERE name = 'n00001'""",
    """INSERT INTO sfm.rho_version SELECT namespace_id, v, v, '', '{}', 1, 0, '[]', keys,
      ARRAY(SELECT greatest(1, v - k) FROM generate_series(0, cardinality(keys) - 1) k)
    FROM sfm.namespace, generate_series(1, version) v""",
    """INSERT INTO sfm.rho_body
    SELECT namespace_id, v, e.key, '{}', sha256(v::text::bytea), 0, convert_to(repeat('x', 4000), 'UTF8')
    FROM sfm.namespace, generate_series(1, version) v, unnest(keys) AS e (key)""",
    "INSERT INTO sfm.rho_key SELECT namespace_id, unnest(keys), 1 FROM sfm.namespace",
    """INSERT INTO sfm.request
    SELECT 'default', 'n' || to_char(i %% %(namespaces)s, 'FM00000'), 'CommitRho', 'r' || i, '', 1, i, '', i
    FROM generate_series(1, %(requests)s) i""",
    "INSERT INTO sfm.event_sink VALUES ('kafka', (1000000000 + 49000)::bigint << 16, '', 0, 0, 0)",
    """INSERT INTO sfm.event SELECT (1000000000 + i)::bigint << 16, 'default', 'n', 'rho.status', 1, i, '{}'
    FROM generate_series(1, %(events)s) i""",
]

VALUES: dict[str, Any] = {
    "tenant": "default",
    "namespace": "n00001",
    "tenants": ["default"] * 100,
    "namespaces": [f"n{i:05}" for i in range(1, 101)],
    "namespace_id": 1,
    "method": "CommitRho",
    "request_id": "r1",
    "restored": 0,
    "number": 500,
    "before": 600,
    "limit": 50,
    "most": 2048,
    "after": 1_000_001_000 << 16,
    "keys": ["k0"],
    "puts": ["k0", "k1"],
    "have": [],
    "key": "k0",
    "put_versions": [1001],
    "new_keys": ["k9"],
    "new_kinds": [1],
    "expected": VERSIONS,
    "known_id": 1,
    "commit_id": 7,
    "compactions": 0,
    "commit_time_us": 1,
    "time_us": 1,
    "committer": "",
    "metadata": "{}",
    "valid": 1,
    "changed_keys": "[]",
    "content_digest": b"",
    "receipt": b"",
    "memories": b"",
    "topic": "rho.status",
    "payload": "{}",
    "version": VERSIONS,
    "newest": VERSIONS,
    "versions": 990,
    "oldest_time_us": 5,
    "expired": [1, 2, 3],
    "events": EVENTS - 100,
    "events_unsent": EVENTS - 50,
    "lost_after_us": 1,
    "topics": [],
    "sink": "kafka",
    "owner": "o",
    "lasts_us": 1,
    "event_id": 1,
}
for i in range(PUTS):
    body = {"key": f"k{i}", "certificate": "{}", "sha256": b"", "packing": 0, "numbers": b"x" * 4000}
    VALUES |= {f"{column}_{i}": value for column, value in body.items()}


@pytest.fixture(scope="module")
def full(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database that is full, as a server has one."""
    database = postgres.fresh(migrated)
    with database.connect() as c:
        counts = {"namespaces": NAMESPACES, "versions": VERSIONS, "requests": REQUESTS, "events": EVENTS}
        for statement in _FILL:
            psycopg.ClientCursor(c).execute(statement, counts | {"keys": [f"k{i}" for i in range(KEYS)]})
        c.execute("VACUUM ANALYZE")
        c.execute("SET jit = off")
        yield c
    database.drop()


def plan(c: psycopg.Connection[Any], name: str, times: int, **values: Any) -> dict[str, Any]:
    """How Postgres executes one of these statements, and did, undone."""
    return plan_of(c, SQL[name], VALUES | values, times)


OTHER = {"read": {"numbers": True}, "creating": {"namespace": "new"}, "advancing": {"request_id": "new"}}
TIMES = pytest.mark.parametrize("times", [1, 10], ids=["the first time", "the tenth time"])
ASKED = [
    *("look", "find_request", "find_kinds", "advancing", "creating"),
    *("read", "find_body", "newest", "remembers", "list_versions", "list_heads", "list_events", "check"),
    *("lock_namespace", "list_expired", "delete_versions", "set_oldest", "delete_requests", "delete_events"),
    *(f"outbox_{name}" for name in ("tail", "keep", "waits", "backlog", "take", "advance", "release")),
]


# Of deleting events, once a minute, counting those that stay is most of the cost.
@pytest.mark.parametrize(("name", "times"), [(n, t) for n in ASKED for t in (1, 10)])
def test_what_is_asked_is_looked_up_and_not_searched(full: psycopg.Connection[Any], name: str, times: int) -> None:
    found = plan(full, name, times, **OTHER.get(name, {}))
    assert searched(found) == []


def test_every_statement_of_the_engine_is_among_them() -> None:
    parts = {"commit", "advance", "create", "body", "delete_bodies"}
    assert {*SQL} - parts == {*ASKED}


@TIMES
@pytest.mark.parametrize("after", [("", ""), ("default", "n10000"), ("default", "n19990")])
def test_a_page_of_heads_costs_a_page(full: psycopg.Connection[Any], after: tuple[str, str], times: int) -> None:
    found = plan(full, "list_heads", times, tenant=after[0], namespace=after[1], limit=500)
    for table in ("namespace", "rho_version"):
        assert rows_read(found, table) <= 501
    assert rows_read(found, "rho_body") <= 500 + KEYS
    assert searched(found) == []


@TIMES
@pytest.mark.parametrize("before", [None, 500, 10])
def test_a_page_of_versions_costs_a_page(full: psycopg.Connection[Any], before: int | None, times: int) -> None:
    found = plan(full, "list_versions", times, before=before, limit=50)
    assert rows_read(found, "rho_version") <= 50
    assert rows_read(found, "rho_body") <= 50 * KEYS
    assert found["Actual Rows"] == min(50, (before or 1000) - (before is not None)) + 1


@TIMES
def test_a_slice_of_heads_costs_a_slice(full: psycopg.Connection[Any], times: int) -> None:
    found = plan(full, "list_heads", times, tenant="default", namespace="n10000", limit=500, most=20)
    assert found["Actual Rows"] == 20
    assert rows_read(found, "rho_body") == 20
    assert rows_read(found, "rho_version") == 20


@TIMES
@pytest.mark.parametrize("name", ["look", "read", "find_body", "advancing"])
def test_a_call_costs_as_much_as_it_is_told(full: psycopg.Connection[Any], name: str, times: int) -> None:
    found = plan(full, name, times, **OTHER.get(name, {}))
    for table in ("namespace", "rho_version", "rho_body"):
        assert rows_read(found, table) <= KEYS
    assert found["Shared Hit Blocks"] + found["Shared Read Blocks"] <= 60


@TIMES
def test_housekeeping_looks_at_its_own_namespace_alone(full: psycopg.Connection[Any], times: int) -> None:
    found = plan(full, "delete_bodies", times, expired=list(range(1, 33)))
    assert searched(found) == []
    assert rows_read(found, "rho_version") <= VERSIONS + 2 * 32
    assert rows_read(found, "rho_body") <= 2 * 32 * KEYS
