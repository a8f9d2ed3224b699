"""Postgres under test: a fresh database for each store."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from sfm_grpc import stores
from sfm_grpc.model import Scope
from sfm_grpc.settings import Settings
from sfm_grpc.storage.postgres import PostgresOptions, migrate, packing
from tests.support.services.databases import Database, Postgres

Connection = psycopg.Connection[Any]

_BODY = "namespace_id = %(id)s AND key = %(key)s AND put_version = %(put)s"


async def migrated(url: str) -> None:
    """Makes a database what a server expects."""
    await migrate.migrate(PostgresOptions(url))


class PostgresEngine:
    """The production engine."""

    name = store = "postgres"
    peeks = False
    leases = False

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._made: list[Database] = []

    def settings(self, directory: Path) -> dict[str, object]:
        database = self._server.fresh(migrated)
        self._made.append(database)
        return {"data_dir": directory, "postgres_url": database.url}

    def close(self) -> None:
        for database in self._made:
            database.drop()

    # ---- looking into it

    def fingerprint(self, settings: Settings) -> str:
        with _connected(settings) as c, c.transaction():
            c.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            digests = sql.SQL(" UNION ALL ").join(_digest(name, kept) for name, kept in c.execute(_COLUMNS))
            return repr(sorted(c.execute(digests).fetchall()))

    def bodies(self, settings: Settings) -> int:
        with _connected(settings) as c:
            return _value(c, "SELECT COUNT(*) FROM sfm.rho_body")

    def versions(self, settings: Settings, scope: Scope) -> list[int]:
        with _connected(settings) as c:
            rows = c.execute(
                "SELECT v.version FROM sfm.rho_version v JOIN sfm.namespace n USING (namespace_id) "
                "WHERE n.tenant = %s AND n.name = %s ORDER BY v.version",
                (scope.tenant, scope.namespace),
            )
            return [version for (version,) in rows]

    def damage(self, settings: Settings) -> list[str]:
        with _connected(settings) as c:
            found = [f"{key} of version {put} in namespace {n} is held and not there" for n, key, put in c.execute(_MISSING)]
            for n, key, put, digest, packed, numbers in c.execute(_BODIES):
                whole = packing.unpack(packed, numbers)
                if hashlib.sha256(whole).digest() != digest:
                    found.append(f"{key} of version {put} in namespace {n}")
        return found

    # ---- harming it

    def corrupt(self, settings: Settings, scope: Scope, version: int, key: str) -> None:
        middle = "octet_length(numbers) / 2"
        self._harm(settings, scope, version, key, f"numbers = set_byte(numbers, {middle}, get_byte(numbers, {middle}) # 1)")

    def garble(self, settings: Settings, scope: Scope, version: int, key: str) -> None:
        self._harm(settings, scope, version, key, "certificate = left(certificate, 40)")

    def lose(self, settings: Settings, scope: Scope, version: int, key: str) -> None:
        self._harm(settings, scope, version, key, "")

    def garble_version(self, settings: Settings, scope: Scope, version: int, how: str) -> None:
        harm = {
            "metadata": "UPDATE sfm.rho_version SET metadata = '{'",
            # Postgres keeps no bytes that are not text; so, text that is not ours.
            "bytes": "UPDATE sfm.rho_version SET changed_keys = '[\"\u00ff'",
            "lost": "DELETE FROM sfm.rho_version",
        }[how]
        with _connected(settings) as c:
            c.execute(f"{harm} WHERE version = %s AND namespace_id = %s", (version, _namespace(c, scope)))

    def rewind(self, settings: Settings, scope: Scope, version: int) -> None:
        with _connected(settings) as c, c.transaction():
            names = {"id": _namespace(c, scope), "version": version}
            c.execute(_REWIND, names)
            c.execute("DELETE FROM sfm.rho_version WHERE namespace_id = %(id)s AND version > %(version)s", names)
            c.execute("DELETE FROM sfm.rho_body WHERE namespace_id = %(id)s AND put_version > %(version)s", names)

    def _harm(self, settings: Settings, scope: Scope, version: int, key: str, change: str) -> None:
        with _connected(settings) as c:
            namespace_id = _namespace(c, scope)
            put = _value(
                c,
                "SELECT e.put_version FROM sfm.rho_version v, unnest(v.keys, v.put_versions) AS e (key, put_version) "
                "WHERE v.namespace_id = %s AND v.version = %s AND e.key = %s",
                (namespace_id, version, key),
            )
            place = {"id": namespace_id, "key": key, "put": put}
            statement = f"UPDATE sfm.rho_body SET {change}" if change else "DELETE FROM sfm.rho_body"
            assert c.execute(f"{statement} WHERE {_BODY}", place).rowcount == 1

    # ---- standing in its way

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        usual = stores.postgres_options

        def patient(settings: Settings) -> PostgresOptions:
            return dataclasses.replace(usual(settings), lock_timeout_s=seconds, statement_timeout_s=seconds)

        stores.postgres_options = patient
        try:
            yield
        finally:
            stores.postgres_options = usual

    @contextlib.contextmanager
    def busy(self, settings: Settings) -> Iterator[None]:
        with _connected(settings) as c, c.transaction():
            c.execute("LOCK TABLE sfm.namespace IN EXCLUSIVE MODE")
            yield

    @contextlib.contextmanager
    def unplugged(self, settings: Settings) -> Iterator[None]:
        """Hangs up on everyone, and takes no calls."""
        name = psycopg.conninfo.conninfo_to_dict(_url(settings))["dbname"]
        allow = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
        with self._server.connect() as c:
            c.execute(allow.format(sql.Identifier(str(name)), sql.SQL("false")))
            c.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
            try:
                yield
            finally:
                c.execute(allow.format(sql.Identifier(str(name)), sql.SQL("true")))


_REWIND = """
UPDATE sfm.namespace n SET version = v.version, keys = v.keys, put_versions = v.put_versions, commit_id = commit_id # 1
FROM sfm.rho_version v WHERE n.namespace_id = %(id)s AND v.namespace_id = %(id)s AND v.version = %(version)s
"""
_MISSING = """
SELECT v.namespace_id, e.key, e.put_version FROM sfm.rho_version v, unnest(v.keys, v.put_versions) AS e (key, put_version)
EXCEPT SELECT namespace_id, key, put_version FROM sfm.rho_body
"""
_BODIES = "SELECT namespace_id, key, put_version, sha256, packing, numbers FROM sfm.rho_body"


# But for those of the cache, and when an index was last seen: they change beside what is stored.
_COLUMNS = """
SELECT table_name, array_agg(column_name::text ORDER BY ordinal_position) FROM information_schema.columns
WHERE table_schema = 'sfm' AND column_name NOT LIKE 'cache%' AND table_name <> 'index_seen'
GROUP BY table_name ORDER BY table_name
"""


def _digest(table: str, columns: list[str]) -> sql.Composed:
    """Of all rows, whatever their order: Postgres does it, as tests ask for it hundreds of times."""
    rows = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier("sfm", table))
    lines = sql.SQL("""string_agg(r::text, E'\\n' ORDER BY r::text COLLATE "C")""")
    return sql.SQL("SELECT {}, count(*), sha256(convert_to({}, 'UTF8')) FROM ({}) r").format(table, lines, rows)


def _namespace(c: Connection, scope: Scope) -> int:
    names = (scope.tenant, scope.namespace)
    return _value(c, "SELECT namespace_id FROM sfm.namespace WHERE tenant = %s AND name = %s", names)


def _value(c: Connection, question: str, values: tuple[object, ...] = ()) -> int:
    row = c.execute(question, values).fetchone()
    assert row is not None
    return int(row[0])


def _url(settings: Settings) -> str:
    assert settings.postgres_url is not None
    return settings.postgres_url.get_secret_value()


def _connected(settings: Settings) -> Connection:
    return psycopg.connect(_url(settings), autocommit=True)
