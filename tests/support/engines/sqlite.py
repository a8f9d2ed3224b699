"""The embedded engine under test: one file."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sfm_grpc.model import Scope
from sfm_grpc.settings import Settings
from sfm_grpc.storage.sqlite.connection import SCHEMA_VERSION, connect


class Sqlite:
    """The embedded engine: one file."""

    name = store = "sqlite"
    peeks = True
    leases = False

    def settings(self, directory: Path) -> dict[str, object]:
        return {"data_dir": directory}

    def close(self) -> None:
        """The file goes with the test's directory."""

    def fingerprint(self, settings: Settings) -> str:
        with _connected(settings) as c:
            c.execute("BEGIN")
            tables = [name for (name,) in c.execute(_TABLES)]
            rows = [(table, sorted(map(repr, c.execute(f"SELECT * FROM {table}")))) for table in tables]
        return hashlib.sha256(repr(rows).encode()).hexdigest()

    def bodies(self, settings: Settings) -> int:
        with _connected(settings) as c:
            (count,) = c.execute("SELECT COUNT(*) FROM rho_body").fetchone()
        return int(count)

    def corrupt(self, settings: Settings, scope: Scope, version: int, key: str) -> None:
        with _body(settings, scope, version, key) as (c, body_id):
            (numbers,) = c.execute("SELECT numbers FROM rho_body WHERE body_id = ?", (body_id,)).fetchone()
            changed = bytearray(numbers)
            changed[len(changed) // 2] ^= 1
            c.execute("UPDATE rho_body SET numbers = ? WHERE body_id = ?", (bytes(changed), body_id))

    def garble(self, settings: Settings, scope: Scope, version: int, key: str) -> None:
        with _body(settings, scope, version, key) as (c, body_id):
            c.execute("UPDATE rho_body SET certificate = substr(certificate, 1, 40) WHERE body_id = ?", (body_id,))

    def garble_version(self, settings: Settings, scope: Scope, version: int, how: str) -> None:
        harm = {
            "metadata": "UPDATE rho_version SET metadata = '{'",
            "bytes": "UPDATE rho_version SET changed_keys = CAST(x'5b22ff225d' AS TEXT)",
            "lost": "DELETE FROM rho_version",
        }[how]
        with _connected(settings) as c:
            c.execute(
                f"{harm} WHERE version = ? AND namespace_id = (SELECT namespace_id FROM namespace WHERE tenant = ? AND name = ?)",
                (version, scope.tenant, scope.namespace),
            )

    def lose(self, settings: Settings, scope: Scope, version: int, key: str) -> None:
        with _body(settings, scope, version, key) as (c, body_id):
            c.execute("DELETE FROM rho_body WHERE body_id = ?", (body_id,))

    def rewind(self, settings: Settings, scope: Scope, version: int) -> None:
        here = "namespace_id = (SELECT namespace_id FROM namespace WHERE tenant = :tenant AND name = :name)"
        names = {"tenant": scope.tenant, "name": scope.namespace, "version": version}
        with _connected(settings) as c:
            c.execute("BEGIN IMMEDIATE")
            for table in ("rho_entry", "rho_version"):
                c.execute(f"DELETE FROM {table} WHERE {here} AND version > :version", names)
            c.execute("UPDATE namespace SET version = :version WHERE tenant = :tenant AND name = :name", names)
            c.execute("COMMIT")

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        usual = connect.__kwdefaults__
        connect.__kwdefaults__ = {**usual, "busy_timeout_s": seconds}
        try:
            yield
        finally:
            connect.__kwdefaults__ = usual

    @contextlib.contextmanager
    def busy(self, settings: Settings) -> Iterator[None]:
        with _connected(settings) as c:
            c.execute("BEGIN IMMEDIATE")
            yield
            c.execute("ROLLBACK")

    def versions(self, settings: Settings, scope: Scope) -> list[int]:
        with _connected(settings) as c:
            rows = c.execute(
                "SELECT v.version FROM rho_version v JOIN namespace n USING (namespace_id) "
                "WHERE n.tenant = ? AND n.name = ? ORDER BY v.version",
                (scope.tenant, scope.namespace),
            )
            return [version for (version,) in rows]

    def damage(self, settings: Settings) -> list[str]:
        with _connected(settings) as c:
            found = [text for (text,) in c.execute("PRAGMA integrity_check") if text != "ok"]
            for body_id, digest, numbers in c.execute("SELECT body_id, sha256, numbers FROM rho_body"):
                if hashlib.sha256(numbers).digest() != digest:
                    found.append(f"body {body_id}")
        return found

    @contextlib.contextmanager
    def unplugged(self, settings: Settings) -> Iterator[None]:
        """Overwrites every page but the first, as a dying disk might; mends them afterwards."""
        path = settings.data_dir / "sfm.db"
        with _connected(settings) as c:
            (page_bytes,) = c.execute("PRAGMA page_size").fetchone()
            c.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            whole = path.read_bytes()
            _overwrite(path, page_bytes, b"\xa5" * (len(whole) - page_bytes))
            _tell_everyone(c)
            try:
                yield
            finally:
                _overwrite(path, page_bytes, whole[page_bytes:])
                _tell_everyone(c)


# But for when an index was last seen, which goes on by itself.
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'index_seen' ORDER BY name"


@contextlib.contextmanager
def _body(settings: Settings, scope: Scope, version: int, key: str) -> Iterator[tuple[sqlite3.Connection, int]]:
    """Where the numbers of one key of one version lie, and a transaction to change them in."""
    with _connected(settings) as c:
        c.execute("BEGIN IMMEDIATE")
        (body_id,) = c.execute(
            "SELECT e.body_id FROM rho_entry e JOIN namespace n USING (namespace_id) "
            "WHERE n.tenant = ? AND n.name = ? AND e.version = ? AND e.key = ?",
            (scope.tenant, scope.namespace, version, key),
        ).fetchone()
        yield c, body_id
        c.execute("COMMIT")


def _overwrite(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


def _tell_everyone(c: sqlite3.Connection) -> None:
    """A commit that touches the first page only: other connections forget the pages they remember."""
    c.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


@contextlib.contextmanager
def _connected(settings: Settings) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(settings.data_dir / "sfm.db", isolation_level=None, timeout=10)) as connection:
        yield connection
