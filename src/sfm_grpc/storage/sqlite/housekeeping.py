"""What SQLite no longer needs to keep, taken away in short transactions between commits."""

from __future__ import annotations

import sqlite3

from sfm_grpc.model import Scope
from sfm_grpc.storage import statements
from sfm_grpc.storage.contract import Retention

SQL = statements.load(__package__, "housekeeping.sql")
_FIND_NAMESPACE = statements.load(__package__, "reads.sql")["find_namespace"]

# Bodies are large and commits wait meanwhile: a few at a time.
_VERSIONS_AT_ONCE = 2
_ROWS_AT_ONCE = 500


def compact(connection: sqlite3.Connection, scope: Scope, retention: Retention, now_us: int) -> int:
    """`Store.compact`. The connection is inside a write transaction."""
    row = connection.execute(_FIND_NAMESPACE, {"tenant": scope.tenant, "namespace": scope.namespace}).fetchone()
    if row is None:
        return 0
    namespace_id, newest, _ = row
    bounds = {
        "namespace_id": namespace_id,
        "newest": newest,
        "versions": retention.versions,
        "oldest_time_us": now_us - retention.age_s * 1_000_000 if retention.age_s else 0,
        "limit": _VERSIONS_AT_ONCE,
    }
    expired = [version for (version,) in connection.execute(SQL["list_expired"], bounds)]
    for version in expired:
        place = {"namespace_id": namespace_id, "version": version}
        bodies = connection.execute(SQL["list_bodies"], place).fetchall()
        connection.execute(SQL["delete_entries"], place)
        connection.executemany(
            SQL["delete_body_if_unused"], [place | {"key": key, "body_id": body_id} for key, body_id in bodies]
        )
        connection.execute(SQL["delete_version"], place)
    if expired:
        connection.execute(SQL["set_oldest"], {"namespace_id": namespace_id})
    return len(expired)


def forget(connection: sqlite3.Connection, retention: Retention, now_us: int) -> int:
    """`Store.forget`. The connection is inside a write transaction."""
    oldest_time_us = now_us - retention.request_age_s * 1_000_000
    requests = connection.execute(SQL["delete_requests"], {"oldest_time_us": oldest_time_us, "limit": _ROWS_AT_ONCE}).rowcount
    events = connection.execute(SQL["delete_events"], {"events": retention.events, "limit": _ROWS_AT_ONCE}).rowcount
    return requests + events
