"""Postgres for the benchmarks: a cluster of its own, the bare UPDATE, and what is asked about disk and WAL."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.support.services.postgres import own_cluster

_SETTINGS = ("fsync", "synchronous_commit", "full_page_writes", "wal_compression", "shared_buffers", "max_wal_size", "autovacuum")
_DEFAULTS = {"max_wal_size": "1GB"}  # tests have theirs checkpoint sooner
# What may not be switched off while commits are timed.
_DURABLE = ("fsync", "synchronous_commit", "full_page_writes", "autovacuum")
_OURS = "bench"  # schema


@dataclass(frozen=True, slots=True)
class Relation:
    """What one table takes on the disk, in bytes, and what vacuum still has to do in it."""

    name: str
    table: int
    toast: int
    indexes: int
    live: int
    """Rows, as far as the statistics know."""
    dead: int
    """Dead tuples, those of its TOAST table included."""
    autovacuums: int
    """Runs so far, those of its TOAST table included."""

    @property
    def total(self) -> int:
        """Bytes, all of them."""
        return self.table + self.toast + self.indexes


@contextlib.contextmanager
def database() -> Iterator[str]:
    """The URL of an empty database of a cluster of its own, durable, with Postgres' own defaults. AbsentError: none to be had."""
    with own_cluster(conf=_DEFAULTS) as server:
        with Questions(server.url()) as questions:
            for name in _DURABLE:
                assert questions.setting(name) == "on", f"{name} is off: nothing measured so would be worth telling"
        yield server.url()


def settings(url: str) -> dict[str, object]:
    """What makes our server keep everything there."""
    return {"postgres_url": url, "postgres_migrate": True}


def about(url: str) -> str:
    """Version and the settings that decide about speed, in a sentence."""
    with Questions(url) as questions:
        told = ", ".join(f"{name} {questions.setting(name)}" for name in _SETTINGS)
        return f"Postgres {questions.setting('server_version').split()[0]}: {told}."


class _Connected:
    """A connection of one's own, in autocommit."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _one(self, sql: str, *values: object) -> Any:
        row = self._connection.execute(sql, values).fetchone()
        assert row is not None
        return row[0]


class BareTable(_Connected):
    """One row of bytes that each UPDATE replaces, if it is what the caller thinks it is."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._versions = itertools.count()
        for sql in (
            f"CREATE SCHEMA IF NOT EXISTS {_OURS}",
            f"DROP TABLE IF EXISTS {_OURS}.body",
            f"CREATE TABLE {_OURS}.body (id bigint PRIMARY KEY, v bigint NOT NULL, data bytea NOT NULL)",
            f"ALTER TABLE {_OURS}.body ALTER COLUMN data SET STORAGE EXTERNAL",
            f"INSERT INTO {_OURS}.body VALUES (1, 0, '')",
        ):
            self._connection.execute(sql)

    def update(self, body: bytes) -> None:
        """One compare-and-set, durable when it returns."""
        sql = f"UPDATE {_OURS}.body SET v = v + 1, data = %b WHERE id = 1 AND v = %s"
        done = self._connection.execute(sql, (body, next(self._versions)), prepare=True, binary=True)
        assert done.rowcount == 1


class Questions(_Connected):
    """What a superuser asks beside the work."""

    def setting(self, name: str) -> str:
        """A server setting, as SHOW writes it."""
        return str(self._one("SELECT current_setting(%s)", name))

    def wal_bytes(self) -> int:
        """How far the WAL was written, in bytes since the beginning."""
        return int(self._one("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')"))

    def checkpoint(self) -> None:
        """The next change of each page writes all of it into the WAL."""
        self._connection.execute("CHECKPOINT")

    def vacuum(self) -> None:
        """What autovacuum does sooner or later, now."""
        self._connection.execute("VACUUM")

    def relations(self) -> list[Relation]:
        """The tables of the store, by name."""
        rows = self._connection.execute(
            """
            SELECT c.relname, pg_table_size(c.oid) - COALESCE(pg_total_relation_size(t.oid), 0),
              COALESCE(pg_total_relation_size(t.oid), 0), pg_indexes_size(c.oid), s.n_live_tup,
              s.n_dead_tup + COALESCE(ts.n_dead_tup, 0), s.autovacuum_count + COALESCE(ts.autovacuum_count, 0)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_stat_all_tables s ON s.relid = c.oid
            LEFT JOIN pg_class t ON t.oid = c.reltoastrelid LEFT JOIN pg_stat_all_tables ts ON ts.relid = t.oid
            WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', %s) ORDER BY c.relname
            """,
            (_OURS,),
        )
        return [Relation(name, *map(int, numbers)) for name, *numbers in rows]
