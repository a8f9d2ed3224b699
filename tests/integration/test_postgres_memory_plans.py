"""What is asked of memories in Postgres is looked up and not searched, in a namespace as large as 20 000 others together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest

from sfm_grpc.model import Between, LinkQuery, MemoryFilter, MemoryOrder, MemoryQuery
from sfm_grpc.storage import memory_columns, statements
from sfm_grpc.storage.memory_columns import Parameters
from tests.support.engines.postgres import migrated
from tests.support.plans import plan_of, rows_read, searched, steps
from tests.support.services.databases import Postgres

PACKAGE = "sfm_grpc.storage.postgres"
MEMORIES, LINKS, UPKEEP, INDEXING, SPACES = (
    statements.load(PACKAGE, f"{name}.sql", space=memory_columns.SPACE)
    for name in ("memories", "links", "memory_upkeep", "indexing", "spaces")
)

MEMORIES_HERE, OTHERS, NEIGHBOURS, PAGE = 100_000, 20_000, 2_000, 101
NOW_US = 10**15
HUB, LEAF = "k000002", "k000077"

# A fifth of the memories is deleted, one in five hundred long ago; a tenth will expire, a few have. The 20 000 others
# have five memories each: where Postgres plans for any namespace, it plans for one of these.
_FILL = [
    """INSERT INTO sfm.memory_space (tenant, name, dimension, distance, revision, memories, vectors, payload_bytes, tombstones,
      create_time_us, update_time_us)
    SELECT 'default', 'n' || to_char(i, 'FM00000'), 8, 1, CASE i WHEN 1 THEN %(here)s ELSE 5 END, 1, 1, 1, %(here)s, 1, 1
    FROM generate_series(1, %(others)s) i""",
    """INSERT INTO sfm.memory (space_id, revision, create_time_us, update_time_us, expire_time_us, delete_time_us, importance,
      coordinates, c0, c1, c2, key, memory_type, digest, payload, vector)
    SELECT 1, i, %(now)s - 1000000 * (i::bigint * 7919 %% %(here)s), %(now)s - 100 * (%(here)s - i),
      CASE WHEN i < 10 THEN i WHEN i %% 10 = 0 THEN %(now)s + i ELSE 0 END,
      CASE WHEN i %% 500 = 1 THEN 1 WHEN i %% 5 = 1 THEN %(now)s - i ELSE 0 END, i * 31 %% 1000 / 1000.0,
      CASE i %% 2 WHEN 0 THEN 3 ELSE 0 END, i %% 100, i %% 77, i %% 55, 'k' || to_char(i * 7 %% %(here)s, 'FM000000'),
      CASE WHEN i %% 1000 = 2 THEN 'rare' WHEN i %% 3 = 0 THEN 'fact' ELSE 'event' END, sha256(i::text::bytea),
      convert_to(repeat('x', 300), 'UTF8'), CASE i %% 3 WHEN 0 THEN sha256('x') END
    FROM generate_series(1, %(here)s) i""",
    """INSERT INTO sfm.memory (space_id, revision, create_time_us, update_time_us, expire_time_us, delete_time_us, importance,
      coordinates, key, memory_type, digest, payload)
    SELECT s, i, %(now)s - 1000000 * (s::bigint * 7919 %% %(here)s), %(now)s - 100 * (s * 5 - i), 0, 0, s %% 1000 / 1000.0, 0,
      'k' || i, 'fact', sha256('y'), convert_to(repeat('x', 300), 'UTF8')
    FROM generate_series(2, %(others)s) s, generate_series(1, 5) i""",
    """INSERT INTO sfm.memory_link
    SELECT 1, 'k' || to_char(i, 'FM000000'), 't' || i %% 3, 'k' || to_char((i * 13 + j) %% %(here)s, 'FM000000'), 1, 1, 1
    FROM generate_series(0, %(here)s - 1) i, generate_series(1, 2) j""",
    """INSERT INTO sfm.memory_link SELECT 1, %(hub)s, 'h' || i %% 3, 'k' || to_char(i, 'FM000000'), 1, 1, 1
    FROM generate_series(0, %(neighbours)s - 1) i""",
    """INSERT INTO sfm.memory_link SELECT 1, 'k' || to_char(i, 'FM000000'), 'h' || i %% 3, %(hub)s, 1, 1, 1
    FROM generate_series(0, %(neighbours)s - 1) i ON CONFLICT DO NOTHING""",
    """INSERT INTO sfm.memory_index
    SELECT s, index, CASE WHEN s > 1 THEN 5 WHEN index = 'i' THEN %(here)s - 1000 ELSE %(here)s END, '', 0
    FROM generate_series(1, %(others)s) s, unnest(ARRAY['i', 'j']) index""",
    "INSERT INTO sfm.index_seen SELECT name, %(now)s * 2 FROM unnest(ARRAY['i', 'j']) name",
    """INSERT INTO sfm.memory_refused SELECT 1, 'i', 'k' || to_char(i * 7 %% %(here)s, 'FM000000'), i, '', 1
    FROM generate_series(1, 1000) i""",
]


@pytest.fixture(scope="module")
def full(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a database that is full, as a server has one."""
    database = postgres.fresh(migrated)
    with database.connect() as c:
        counts = {"here": MEMORIES_HERE, "others": OTHERS, "neighbours": NEIGHBOURS, "hub": HUB, "now": NOW_US}
        for statement in _FILL:
            psycopg.ClientCursor(c).execute(statement, counts)
        c.execute("VACUUM ANALYZE")
        c.execute("SET jit = off")
        yield c
    database.drop()


TIMES = pytest.mark.parametrize("times", [1, 10], ids=["the first time", "the tenth time"])


# ---- lists and stats: their plans are for the values, each time

CHOSEN = {
    "a prefix": MemoryFilter(key_prefix="k0123"),
    "a type": MemoryFilter(memory_types=("rare",)),
    "types": MemoryFilter(memory_types=("rare", "none")),
    "importance": MemoryFilter(importance=Between(0.999, None)),
    "when created": MemoryFilter(create_time_us=Between(NOW_US - 50_000_000, NOW_US)),
    "when written": MemoryFilter(update_time_us=Between(NOW_US - 20_000, None)),
    "a box": MemoryFilter(box=(Between(10, 10), Between(10, 12), Between())),
}
# Where a list goes on from the middle.
AFTER: dict[MemoryOrder, float | int | str] = {
    MemoryOrder.KEY: "k050000",
    MemoryOrder.CREATE_TIME: NOW_US - 50_000 * 1_000_000,
    MemoryOrder.UPDATE_TIME: 50_000,
    MemoryOrder.IMPORTANCE: 0.5,
}


def page(c: psycopg.Connection[Any], chosen: MemoryFilter, order: MemoryOrder, descending: bool, middle: bool) -> dict[str, Any]:
    after = (AFTER[order], "k050000") if middle else None
    query = MemoryQuery(chosen, order, descending, after, PAGE, NOW_US)
    parameters = Parameters("%({})s", space_id=1, now_us=NOW_US, limit=PAGE)
    return plan_of(c, memory_columns.page(MEMORIES["page"], query, parameters), parameters.values, 1)


ORDER = pytest.mark.parametrize("order", MemoryOrder, ids=lambda order: order.name)
WAY = pytest.mark.parametrize("descending", [False, True], ids=["up", "down"])
MIDDLE = pytest.mark.parametrize("middle", [False, True], ids=["from the beginning", "from the middle"])


@ORDER
@WAY
@MIDDLE
def test_a_page_of_all_costs_a_page(full: psycopg.Connection[Any], order: MemoryOrder, descending: bool, middle: bool) -> None:
    found = page(full, MemoryFilter(), order, descending, middle)
    assert found["Actual Rows"] == PAGE
    assert searched(found) == []
    assert rows_read(found, "memory") <= 2 * PAGE  # a fifth is deleted


@ORDER
@WAY
@MIDDLE
@pytest.mark.parametrize("chosen", CHOSEN)
def test_a_page_of_few_costs_those_few(
    full: psycopg.Connection[Any], chosen: str, order: MemoryOrder, descending: bool, middle: bool
) -> None:
    """In whatever order: there are some hundreds of them, found by an index of what they have in common, and sorted."""
    found = page(full, CHOSEN[chosen], order, descending, middle)
    assert searched(found) == []
    assert rows_read(found, "memory") <= 1500


@pytest.mark.parametrize("chosen", CHOSEN)
def test_stats_of_few_cost_those_few(full: psycopg.Connection[Any], chosen: str) -> None:
    parameters = Parameters("%({})s", space_id=1, now_us=NOW_US)
    found = plan_of(full, memory_columns.stats(MEMORIES["list_stats"], CHOSEN[chosen], parameters), parameters.values, 1)
    assert searched(found) == []
    assert rows_read(found, "memory") <= 1500


def test_stats_of_a_small_namespace_do_not_read_the_others(full: psycopg.Connection[Any]) -> None:
    parameters = Parameters("%({})s", space_id=2, now_us=NOW_US)
    found = plan_of(full, memory_columns.stats(MEMORIES["list_stats"], MemoryFilter(), parameters), parameters.values, 1)
    assert rows_read(found, "memory") == 5


# ---- links


@TIMES
@pytest.mark.parametrize("key", [HUB, LEAF], ids=["many", "few"])
@pytest.mark.parametrize("after", [None, ("h1", "k000100")], ids=["from the beginning", "from the middle"])
@pytest.mark.parametrize("link_types", [(), ("h1",), ("h1", "t0")], ids=["all types", "a type", "types"])
@pytest.mark.parametrize("incoming", [False, True], ids=["outgoing", "incoming"])
def test_a_page_of_links_costs_a_page(
    full: psycopg.Connection[Any],
    incoming: bool,
    link_types: tuple[str, ...],
    after: tuple[str, str] | None,
    key: str,
    times: int,
) -> None:
    parameters = Parameters("%({})s", space_id=1, limit=PAGE, key=key, now_us=NOW_US)
    query = LinkQuery(key, incoming, link_types, after, PAGE, NOW_US)
    found = plan_of(full, memory_columns.links(LINKS["list_links"], query, parameters), parameters.values, times)
    assert searched(found) == []
    # Of a type in the middle: those of the types before it are passed in the index.
    assert rows_read(found, "memory_link") <= NEIGHBOURS / 2
    assert rows_read(found, "memory") <= 2 * PAGE


# ---- what a call or the background asks, by keys and numbers

VALUES: dict[str, Any] = {
    "tenant": "default",
    "namespace": "n00001",
    "space_id": 1,
    "number": 1,
    "index": "i",
    "owner": "o",
    "now_us": NOW_US,
    "time_us": NOW_US,
    "before_us": 1000,
    "lasts_us": 1,
    "lost_after_us": 1,
    "limit": 500,
    "after": "k050000",
    "key": LEAF,
    "keys": [f"k{i:06}" for i in range(1000)],
    "revision": MEMORIES_HERE + 1,
    "create_time_us": 1,
    "update_time_us": NOW_US,
    "delete_time_us": 0,
    "drop_time_us": 1,
    "source": HUB,
    "link_type": "h1",
    "target": LEAF,
    "weight": 1.0,
    "sources": [f"k{i:06}" for i in range(1000)],
    "link_types": ["t0"] * 1000,
    "targets": [f"k{i:06}" for i in range(1000)],
    "reason": "",
    "distance": 1,
    "dimension": 8,
    "memories": 1,
    "vectors": 1,
    "payload_bytes": 1,
    "tombstones": 1,
    "memories_max": 0,
    "limit_policy": 1,
}
COLUMNS = memory_columns.columns(payloads=True, vectors=True)
BY_KEY = {
    "get": MEMORIES["get"].format(columns=COLUMNS),
    "find_known": MEMORIES["find_known"],
    "get_all": INDEXING["get_all"].format(columns=COLUMNS),
}
INDEX = {name: INDEXING[name] for name in INDEXING if name not in ("get_all", "list_changed", "list_pointed", "list_behind")}
ONE = {
    "erase": MEMORIES["erase"],
    **{name: LINKS[name] for name in ("put_link", "delete_link", "find_living")},
    **{
        name: SPACES[name]
        for name in ("lock_space", "find_space", "create_space", "advance_space", "drop_space", "renumber_space")
    },
    **{name: INDEX[name] for name in ("find_progress", "begin_index", "take_index", "advance_index", "release_index")},
    **{name: INDEX[name] for name in ("forget_index", "put_refused", "forget_dropped", "keep_index")},
}
WALKS = {
    "list_changed": (INDEXING["list_changed"].format(columns=COLUMNS), {"after": MEMORIES_HERE - 1000}),
    "list_pointed": (INDEXING["list_pointed"], {}),
    "list_refused": (INDEXING["list_refused"], {}),
    "list_expired": (UPKEEP["list_expired"], {}),
    "list_spaces": (SPACES["list_spaces"], {"after": "n10000"}),
}


def asked(c: psycopg.Connection[Any], statement: str, times: int, values: Mapping[str, object] | None = None) -> dict[str, Any]:
    found = plan_of(c, statement, VALUES | dict(values or {}), times)
    # A table of what was dropped, or refused, or of indexes that there are, is of few rows.
    assert {*searched(found)} <= {"memory_dropped", "memory_refused", "index_seen"}
    return found


@TIMES
@pytest.mark.parametrize("name", BY_KEY)
def test_a_thousand_keys_are_looked_up_one_by_one(full: psycopg.Connection[Any], name: str, times: int) -> None:
    """As every write of a batch does."""
    found = asked(full, BY_KEY[name], times)
    assert rows_read(found, "memory") == 1000
    assert rows_read(found, "memory_space") <= 1


@TIMES
def test_a_thousand_links_are_looked_up_one_by_one(full: psycopg.Connection[Any], times: int) -> None:
    found = asked(full, LINKS["find_links"], times)
    assert rows_read(found, "memory_link") <= 1000


@TIMES
def test_links_of_a_memory_that_goes_are_found_by_both_ends(full: psycopg.Connection[Any], times: int) -> None:
    found = asked(full, LINKS["cut_links"], times, {"keys": [LEAF, "k000123"]})
    assert rows_read(found, "memory_link") <= 20


@TIMES
@pytest.mark.parametrize("name", ONE)
def test_one_is_looked_up(full: psycopg.Connection[Any], name: str, times: int) -> None:
    found = asked(full, ONE[name], times)
    assert found["Shared Hit Blocks"] + found["Shared Read Blocks"] <= 100
    assert sum(rows_read(found, table) for table in ("memory", "memory_link", "memory_space", "memory_index")) <= 4


@TIMES
@pytest.mark.parametrize("name", WALKS)
def test_a_step_of_a_walk_costs_a_step(full: psycopg.Connection[Any], name: str, times: int) -> None:
    statement, values = WALKS[name]
    found = asked(full, statement, times, values)
    assert 0 < found["Actual Rows"] <= 500
    assert rows_read(found, "memory") <= 2000  # a third has vectors
    assert rows_read(found, "memory_space") <= 500


@TIMES
def test_what_is_behind_costs_the_namespaces_and_not_their_memories(full: psycopg.Connection[Any], times: int) -> None:
    found = plan_of(full, INDEXING["list_behind"], VALUES, times)
    assert {s["Relation Name"] for s in steps(found) if "Relation Name" in s} == {"memory_space", "memory_index"}
    assert found["Actual Rows"] == 1


@TIMES
@pytest.mark.parametrize(("before_us", "some"), [(1000, 198), (NOW_US - 95_000, 500)], ids=["long ago", "more than a step"])
def test_burying_costs_what_is_buried(full: psycopg.Connection[Any], before_us: int, some: int, times: int) -> None:
    """But for tombstones that may not go yet: one that was purged may be among them. Two are not in an index yet."""
    found = asked(full, UPKEEP["bury"], times, {"before_us": before_us})
    gone = next(s for s in steps(found) if s.get("Subplan Name") == "CTE gone")
    assert gone["Actual Rows"] == some
    assert rows_read(found, "memory") <= MEMORIES_HERE / 5 + 2 * some
    assert rows_read(found, "memory_link") <= 10 * some
    assert rows_read(found, "memory_space") <= 4 * some
    assert rows_read(found, "memory_index") <= 2 * (some + 2)


@TIMES
@pytest.mark.parametrize("name", ["clear_dropped", "end_dropped"])
@pytest.mark.parametrize("number", [1, 2, None, 77_777_777], ids=["a large one", "a small one", "none", "one that is empty"])
def test_what_was_dropped_is_taken_away_without_reading_the_rest(
    full: psycopg.Connection[Any], number: int | None, name: str, times: int
) -> None:
    if number is not None:
        full.execute("INSERT INTO sfm.memory_dropped VALUES (%s, 'default', 'n', 8, 1, 1)", (number,))
    try:
        found = asked(full, SPACES[name], times)
    finally:
        full.execute("DELETE FROM sfm.memory_dropped")
    for table in ("memory", "memory_link"):
        assert rows_read(found, table) <= 2 * 500


# Once, when an index is opened, and when one was not seen for a week.
# The last of these costs what has expired, and is asked where a limit is near.
SELDOM = {"end_turns", "lose_indexes", "count_expired"}
# The first of these is planned each time.
WRITES = {"mark", "put", "put_parts", "remember_request", "insert_event"}
LISTS = {"page", "list_stats", "list_links"}


def test_every_statement_about_memories_is_among_them() -> None:
    tested = {*BY_KEY, *ONE, *WALKS, *LISTS, "find_links", "cut_links", "list_behind", "list_dropped", "bury"}
    tested |= {"clear_dropped", "end_dropped"}
    assert {*MEMORIES, *LINKS, *UPKEEP, *INDEXING, *SPACES} - SELDOM - WRITES == tested


@TIMES
def test_what_an_index_may_let_go_of_is_looked_up(full: psycopg.Connection[Any], times: int) -> None:
    found = asked(full, INDEXING["list_dropped"], times)
    assert rows_read(found, "memory_index") == 0
