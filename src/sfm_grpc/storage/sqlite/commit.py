"""The one write path in SQLite: `storage.contract.Store.commit`, step by step, on the writer's thread."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sfm_grpc.errors import (
    DeadlineExceeded,
    KindChanged,
    LimitExceeded,
    NotFound,
    RequestIdReused,
    VersionCompacted,
    VersionConflict,
)
from sfm_grpc.model import CommitResult, DeleteMatrix, Entry, Kind, PutMatrix, RestoreVersion, Transaction, Version
from sfm_grpc.storage import codec, statements
from sfm_grpc.storage.sqlite.connection import roll_back, translated

SQL = statements.load(__package__, "commit.sql")

# Smaller numbers are bound to the statement: one call instead of three.
_BLOB_BYTES_MIN = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Head:
    namespace_id: int
    version: int
    oldest: int
    commit_time_us: int
    committer: str


@dataclass(frozen=True, slots=True)
class _Held:
    """A key of the version in the making: its entry, and where its numbers lie."""

    entry: Entry
    body_id: int | None
    """None: not written yet."""


def commit(connection: sqlite3.Connection, transaction: Transaction, keys_max: int) -> CommitResult:
    """Executes one transaction; see the contract for the order of the checks."""
    if time.monotonic() > transaction.deadline:
        raise DeadlineExceeded
    with translated():
        connection.execute("BEGIN IMMEDIATE")
    try:
        with translated():
            result = _execute(connection, transaction, keys_max)
        with translated(committing=True):
            connection.execute("ROLLBACK" if transaction.validate_only or result.replayed else "COMMIT")
    except BaseException:
        roll_back(connection)
        raise
    return result


def _execute(connection: sqlite3.Connection, t: Transaction, keys_max: int) -> CommitResult:
    first = _first_answer(connection, t)
    if first is not None:
        return first
    head = _head(connection, t)
    number = (head.version if head else 0) + 1
    held = _held(connection, head, t, number)
    if len(held) > keys_max:
        raise LimitExceeded(limit="keys_per_namespace_max", value=len(held), maximum=keys_max, field="updates")
    entries = tuple(held[key].entry for key in sorted(held, key=str.encode))
    version = Version(
        version=number,
        # A clock that stepped back must not make history run backwards.
        commit_time_us=max(t.time_us, head.commit_time_us if head else 0),
        committer=t.committer,
        metadata=t.metadata,
        valid=all(e.certificate.valid for e in entries),
        restored_version=next((c.version for c in t.changes if isinstance(c, RestoreVersion)), 0),
        entries=entries,
        changed_keys=tuple(c.key for c in t.changes if not isinstance(c, RestoreVersion)),
    )
    if t.validate_only:
        return CommitResult(None, number, version.commit_time_us, t.receipt, replayed=False)
    _write(connection, t, head, version, held)
    return CommitResult(version, number, version.commit_time_us, t.receipt, replayed=False)


def _first_answer(connection: sqlite3.Connection, t: Transaction) -> CommitResult | None:
    if t.request is None:
        return None
    names = {"method": t.request.method, "request_id": t.request.request_id}
    row = connection.execute(SQL["find_request"], _scope(t) | names).fetchone()
    if row is None:
        return None
    content_digest, version, commit_time_us, receipt, first_time_us = row
    if content_digest != t.request.content_digest:
        raise RequestIdReused(namespace=t.scope.namespace, reused_id=t.request.request_id, first_time_us=first_time_us)
    return CommitResult(None, version, commit_time_us, receipt, replayed=True)


def _head(connection: sqlite3.Connection, t: Transaction) -> _Head | None:
    row = connection.execute(SQL["find_head"], _scope(t)).fetchone()
    head = _Head(*row) if row else None
    current = head.version if head else 0
    if t.expected_version is not None and t.expected_version != current:
        raise VersionConflict(
            namespace=t.scope.namespace,
            expected=t.expected_version,
            current=current,
            committer=head.committer if head else "",
            commit_time_us=head.commit_time_us if head else 0,
        )
    return head


def _held(connection: sqlite3.Connection, head: _Head | None, t: Transaction, number: int) -> dict[str, _Held]:
    """What the namespace holds after the changes."""
    held: dict[str, _Held] = {}
    source = head.version if head else 0
    for change in t.changes:
        if isinstance(change, RestoreVersion):
            source = _restorable(head, change, t)
    if head:
        found = {"namespace_id": head.namespace_id, "version": source}
        for key, body_id, put_version, certificate in connection.execute(SQL["list_entries"], found):
            held[key] = _Held(Entry(key, codec.certificate_from_json(certificate), put_version), body_id)
        if not held and source != head.version and not _version_exists(connection, head, source):
            raise VersionCompacted(namespace=t.scope.namespace, version=source, oldest=head.oldest, current=head.version)
    for change in t.changes:
        if isinstance(change, PutMatrix):
            _check_kind(connection, head, change, t)
            held[change.key] = _Held(Entry(change.key, change.certificate, number), None)
        elif isinstance(change, DeleteMatrix):
            held.pop(change.key, None)
    return held


def _restorable(head: _Head | None, change: RestoreVersion, t: Transaction) -> int:
    namespace = t.scope.namespace
    if head is None:
        raise NotFound(what="namespace", namespace=namespace)
    if change.version > head.version:
        raise NotFound(what="version", namespace=namespace, names=(str(change.version),), current=head.version)
    if change.version < head.oldest:
        raise VersionCompacted(namespace=namespace, version=change.version, oldest=head.oldest, current=head.version)
    return change.version


def _version_exists(connection: sqlite3.Connection, head: _Head, version: int) -> bool:
    """A version may be kept and hold nothing; one between LAST_VALID and the rest may be gone."""
    found = {"namespace_id": head.namespace_id, "version": version}
    return connection.execute(SQL["find_version"], found).fetchone() is not None


def _check_kind(connection: sqlite3.Connection, head: _Head | None, change: PutMatrix, t: Transaction) -> None:
    if head is None:
        return
    row = connection.execute(SQL["find_kind"], {"namespace_id": head.namespace_id, "key": change.key}).fetchone()
    if row and row[0] != change.matrix.kind:
        kind, requested = Kind(row[0]).label, change.matrix.kind.label
        raise KindChanged(namespace=t.scope.namespace, key=change.key, kind=kind, requested=requested)


def _write(
    connection: sqlite3.Connection, t: Transaction, head: _Head | None, version: Version, held: Mapping[str, _Held]
) -> None:
    scope, number = _scope(t), version.version
    if head is None:
        namespace_id = connection.execute(SQL["create_namespace"], scope).lastrowid
    else:
        namespace_id = head.namespace_id
        connection.execute(SQL["advance_namespace"], {"namespace_id": namespace_id, "version": number})
    place = {"namespace_id": namespace_id, "version": number}
    numbers = {c.key: c for c in t.changes if isinstance(c, PutMatrix)}
    for key, item in held.items():
        body_id = item.body_id
        if body_id is None:
            body_id = _write_body(connection, numbers[key], place)
        connection.execute(SQL["insert_entry"], place | {"key": key, "body_id": body_id})
    connection.execute(
        SQL["insert_version"],
        place
        | {
            "commit_time_us": version.commit_time_us,
            "committer": version.committer,
            "metadata": codec.to_json(dict(version.metadata)),
            "valid": int(version.valid),
            "restored_version": version.restored_version,
            "changed_keys": codec.to_json(version.changed_keys),
        },
    )
    _remember(connection, t, version)
    event = t.event_of(version)
    told = {"topic": event.topic, "version": number, "time_us": version.commit_time_us, "payload": codec.to_json(event.payload)}
    connection.execute(SQL["insert_event"], scope | told)


def _write_body(connection: sqlite3.Connection, put: PutMatrix, place: Mapping[str, int | None]) -> int | None:
    connection.execute(SQL["fix_kind"], {"namespace_id": place["namespace_id"], "key": put.key, "kind": put.matrix.kind.value})
    body = {
        "version": place["version"],
        "certificate": codec.certificate_to_json(put.certificate),
        "sha256": put.certificate.digest,
    }
    numbers = put.matrix.numbers
    if len(numbers) < _BLOB_BYTES_MIN:
        return connection.execute(SQL["insert_body"], body | {"numbers": numbers}).lastrowid
    # Binding copies the numbers while it holds the GIL, and the event loop waits (5 to 11 ms for 8 MiB); a blob lets it go.
    body_id = connection.execute(SQL["insert_empty_body"], body | {"size": len(numbers)}).lastrowid
    assert body_id is not None
    with connection.blobopen("rho_body", "numbers", body_id) as blob:
        blob.write(numbers)
    return body_id


def _remember(connection: sqlite3.Connection, t: Transaction, version: Version) -> None:
    if t.request is None:
        return
    request = {
        "method": t.request.method,
        "request_id": t.request.request_id,
        "content_digest": t.request.content_digest,
        "version": version.version,
        "commit_time_us": version.commit_time_us,
        "receipt": t.receipt,
        "first_time_us": t.time_us,
    }
    connection.execute(SQL["remember_request"], _scope(t) | request)


def _scope(t: Transaction) -> dict[str, object]:
    return {"tenant": t.scope.tenant, "namespace": t.scope.namespace}
