"""What SQLite no longer needs to keep, taken away in short transactions between commits."""

from __future__ import annotations

import sqlite3

from sfm_grpc.model import Scope
from sfm_grpc.storage import statements
from sfm_grpc.storage.contract import Retention
from sfm_grpc.storage.outbox_contract import SINK_LOST_AFTER_S

SQL = statements.load(__package__, "housekeeping.sql")
_FIND_NAMESPACE = statements.load(__package__, "reads.sql")["find_namespace"]

# Commits wait meanwhile: a few milliseconds' worth at a time.
_VERSIONS_AT_ONCE = 32
_BYTES_AT_ONCE = 4 << 20
_LOOKUPS_AT_ONCE = 8192  # at most; one version is taken whole, however many keys it holds
_ROWS_AT_ONCE = 500


def compact(connection: sqlite3.Connection, scope: Scope, retention: Retention, now_us: int) -> int:
    """`Store.compact`. The connection is inside a write transaction."""
    row = connection.execute(_FIND_NAMESPACE, {"tenant": scope.tenant, "namespace": scope.namespace}).fetchone()
    if row is None:
        return 0
    namespace_id, newest, oldest = row
    bounds = {
        "namespace_id": namespace_id,
        "newest": newest,
        "versions": retention.versions,
        "oldest_time_us": now_us - retention.age_s * 1_000_000 if retention.age_s else 0,
        "limit": _VERSIONS_AT_ONCE,
    }
    expired = [version for (version,) in connection.execute(SQL["list_expired"], bounds)]
    # A body is looked for in each kept version; after a gap before LAST_VALID there are fewer of them than numbers.
    kept = newest - oldest + 1
    removed = size = lookups = 0
    while removed < len(expired) and size < _BYTES_AT_ONCE and lookups < _LOOKUPS_AT_ONCE:
        sizes = _remove(connection, namespace_id, expired[removed])
        size += sum(sizes)
        lookups += len(sizes) * kept
        removed += 1
    if removed:
        connection.execute(SQL["set_oldest"], {"namespace_id": namespace_id})
    return removed


def _remove(connection: sqlite3.Connection, namespace_id: int, version: int) -> list[int]:
    """Removes a version, and the bodies that no other holds; returns the size of each body it spoke of."""
    place = {"namespace_id": namespace_id, "version": version}
    bodies = connection.execute(SQL["list_bodies"], place).fetchall()
    connection.execute(SQL["delete_entries"], place)
    connection.execute(SQL["delete_version"], place)
    unused = [place | {"key": key, "body_id": body_id} for key, body_id, _ in bodies]
    connection.executemany(SQL["delete_body_if_unused"], unused)
    return [size for _, _, size in bodies]


def forget(connection: sqlite3.Connection, retention: Retention, now_us: int) -> int:
    """`Store.forget`. The connection is inside a write transaction."""
    oldest_time_us = now_us - retention.request_age_s * 1_000_000
    requests = connection.execute(SQL["delete_requests"], {"oldest_time_us": oldest_time_us, "limit": _ROWS_AT_ONCE}).rowcount
    return requests + _forget_events(connection, retention, now_us)


def _forget_events(connection: sqlite3.Connection, retention: Retention, now_us: int) -> int:
    bounds = {
        "events": retention.events,
        "events_unsent": retention.events_unsent,
        "seen_since_us": now_us - round(SINK_LOST_AFTER_S * 1e6),
        "limit": _ROWS_AT_ONCE,
    }
    old = [event_id for (event_id,) in connection.execute(SQL["list_old_events"], bounds)]
    if old:
        connection.execute(SQL["count_dropped"], {"last": old[-1]})
        connection.execute(SQL["delete_events"], {"last": old[-1]})
    return len(old)
