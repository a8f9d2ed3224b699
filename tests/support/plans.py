"""How Postgres executes a statement."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from psycopg import sql


def plan_of(c: psycopg.Connection[Any], statement: str, values: Mapping[str, object], times: int) -> dict[str, Any]:
    """How Postgres executes a statement that was prepared, the first time or the tenth; and did, undone.

    The first five times it plans for the values; then, where that promises to cost no more, once for any.
    """
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    text = re.sub(r"%\((\w+)\)s", lambda m: f"${names.index(m[1]) + 1}", statement)
    arguments = sql.SQL("({})").format(sql.SQL(", ").join(sql.Literal(values[n]) for n in names)) if names else sql.SQL("")
    c.execute("DEALLOCATE ALL")
    with c.transaction(force_rollback=True):
        c.execute(sql.SQL("PREPARE asked AS ") + sql.SQL(text))
        for _ in range(times - 1):
            c.execute(sql.SQL("EXPLAIN EXECUTE asked") + arguments)
        row = c.execute(sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE asked") + arguments).fetchone()
    assert row is not None
    return dict(row[0][0]["Plan"])


def steps(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from steps(child)


def searched(node: dict[str, Any]) -> list[str]:
    """The tables that were read from one end to the other; but `outbox` has one row, and `event_sink` one for each sink."""
    small = ("outbox", "event_sink")
    return [s["Relation Name"] for s in steps(node) if "Seq Scan" in s["Node Type"] and s["Relation Name"] not in small]


def rows_read(node: dict[str, Any], table: str) -> float:
    """How many rows of a table were looked at."""
    of_table = [s for s in steps(node) if s.get("Relation Name") == table and s["Node Type"] != "ModifyTable"]
    return sum((s["Actual Rows"] + s.get("Rows Removed by Filter", 0)) * s["Actual Loops"] for s in of_table)
