"""The one write path in SQLite: `storage.contract.Store.commit`, step by step, on the writer's thread."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sfm_grpc.errors import DeadlineExceeded
from sfm_grpc.model import CommitResult, Entry, PutMatrix, Transaction, Version
from sfm_grpc.storage import codec, decisions, statements
from sfm_grpc.storage.decisions import Head, Remembered
from sfm_grpc.storage.memories import decide
from sfm_grpc.storage.memory_writes import Held
from sfm_grpc.storage.prunes import begin
from sfm_grpc.storage.sqlite import memories, prunes
from sfm_grpc.storage.sqlite.connection import roll_back, translated

SQL = statements.load(__package__, "commit.sql")

# Smaller numbers are bound to the statement: one call instead of three.
_BLOB_BYTES_MIN = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Namespace:
    """A namespace's row and head."""

    namespace_id: int
    head: Head


@dataclass(frozen=True, slots=True)
class _Held:
    """What the version that is built upon holds, and where the numbers of each key lie."""

    entries: Mapping[str, Entry]
    bodies: Mapping[str, int]


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
    first = decisions.first_answer(t, _remembered(connection, t))
    if first is not None:
        return first
    space, known = memories.look(connection, t.scope, t.memories, t.time_us) if t.memories else (None, Held({}))
    decided = decide(t.scope, t.memories.changes, space, known, t.time_us) if t.memories else None
    version = held = namespace = None
    if t.is_about_matrices:
        namespace = _namespace(connection, t)
        head = namespace.head if namespace else None
        decisions.check_expected(t, head)
        decisions.check_restorable(t, head)
        held = _held(connection, namespace, t)
        decisions.check_kinds(t, _kinds(connection, namespace, t))
        version = decisions.next_version(t, head, held.entries, keys_max)
    result = decisions.result(t, version, decided)
    pruned = None
    if t.prune is not None and decided is not None:
        pruning = begin(t, t.prune, prunes.look(connection, t, t.prune), space=space, held=known)
        pruned = pruning.made(decided, result.number)
        result = replace(result, audit=pruned.audit, audit_number=pruned.audit.number)
    if t.validate_only:
        return result
    if version is not None and held is not None:
        _write_version(connection, t, namespace, version, held.bodies)
    if decided is not None and decided.writes:
        memories.write(connection, t.scope, decided)
    if t.prune is not None and pruned is not None:
        prunes.write(connection, t, t.prune, pruned)
    _remember(connection, t, result)
    for event, about in decisions.events(t, result):
        told = {"topic": event.topic, "version": about, "time_us": result.commit_time_us, "payload": codec.to_json(event.payload)}
        connection.execute(SQL["insert_event"], _scope(t) | told)
    return result


def _remembered(connection: sqlite3.Connection, t: Transaction) -> Remembered | None:
    if t.request is None:
        return None
    names = {"method": t.request.method, "request_id": t.request.request_id}
    row = connection.execute(SQL["find_request"], _scope(t) | names).fetchone()
    return Remembered(*row) if row else None


def _namespace(connection: sqlite3.Connection, t: Transaction) -> _Namespace | None:
    row = connection.execute(SQL["find_head"], _scope(t)).fetchone()
    return _Namespace(row[0], Head(*row[1:])) if row else None


def _held(connection: sqlite3.Connection, namespace: _Namespace | None, t: Transaction) -> _Held:
    if namespace is None:
        return _Held({}, {})
    head = namespace.head
    source = decisions.restored_version(t) or head.version
    place = {"namespace_id": namespace.namespace_id, "version": source}
    entries, bodies = {}, {}
    for key, body_id, put_version, certificate in connection.execute(SQL["list_entries"], place):
        entries[key] = Entry(key, codec.certificate_from_json(certificate), put_version)
        bodies[key] = body_id
    # A version may be kept and hold nothing; one between LAST_VALID and the rest may be gone.
    if not entries and source != head.version and connection.execute(SQL["find_version"], place).fetchone() is None:
        raise decisions.gone(t, head)
    return _Held(entries, bodies)


def _kinds(connection: sqlite3.Connection, namespace: _Namespace | None, t: Transaction) -> dict[str, int]:
    if namespace is None:
        return {}
    keys = [c.key for c in t.changes if isinstance(c, PutMatrix)]
    asked = ({"namespace_id": namespace.namespace_id, "key": key} for key in keys)
    rows = [connection.execute(SQL["find_kind"], each).fetchone() for each in asked]
    return {key: row[0] for key, row in zip(keys, rows, strict=True) if row}


def _write_version(
    connection: sqlite3.Connection, t: Transaction, namespace: _Namespace | None, version: Version, bodies: Mapping[str, int]
) -> None:
    scope, number = _scope(t), version.version
    if namespace is None:
        namespace_id = connection.execute(SQL["create_namespace"], scope).lastrowid
    else:
        namespace_id = namespace.namespace_id
        connection.execute(SQL["advance_namespace"], {"namespace_id": namespace_id, "version": number})
    place = {"namespace_id": namespace_id, "version": number}
    puts = {c.key: c for c in t.changes if isinstance(c, PutMatrix)}
    for key in (entry.key for entry in version.entries):
        body_id = _write_body(connection, puts[key], place) if key in puts else bodies[key]
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


def _remember(connection: sqlite3.Connection, t: Transaction, result: CommitResult) -> None:
    if t.request is None:
        return
    request = {
        "method": t.request.method,
        "request_id": t.request.request_id,
        "content_digest": t.request.content_digest,
        "version": result.number,
        "commit_time_us": result.commit_time_us,
        "receipt": t.receipt,
        "memories": decisions.kept_of_memories(result),
        "first_time_us": t.time_us,
    }
    connection.execute(SQL["remember_request"], _scope(t) | request)


def _scope(t: Transaction) -> dict[str, object]:
    return {"tenant": t.scope.tenant, "namespace": t.scope.namespace}
