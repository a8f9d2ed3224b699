"""Questions to SQLite: each is one read transaction, so each answer is one consistent look."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sfm_grpc.errors import NotFound, RhoCorrupt, VersionCompacted
from sfm_grpc.model import Buffer, Entry, Scope, Version
from sfm_grpc.storage import codec, statements
from sfm_grpc.storage.contract import Reading, VersionPage
from sfm_grpc.storage.outbox_contract import StoredEvent

SQL = statements.load(__package__, "reads.sql")
PEEK = SQL["peek"]

# A row of rho_version: its number, then `codec.version_from_columns`. Damage may have left anything in it.
_Row = tuple[Any, ...]


def read(
    connection: sqlite3.Connection,
    scope: Scope,
    number: int | None,
    keys: Sequence[str],
    have: Collection[bytes],
    *,
    numbers: bool,
) -> Reading:
    """`Store.read`. The connection is inside a read transaction."""
    namespace_id, newest, oldest = _namespace(connection, scope)
    wanted = newest if number is None else number
    if wanted > newest:
        raise NotFound(what="version", namespace=scope.namespace, names=(str(wanted),), current=newest)
    row = connection.execute(SQL["find_version"], {"namespace_id": namespace_id, "version": wanted}).fetchone()
    if row is None and wanted != newest:
        raise VersionCompacted(namespace=scope.namespace, version=wanted, oldest=oldest, current=newest)
    version, bodies = _version(connection, namespace_id, wanted, row)
    if version.unreadable:
        raise RhoCorrupt(
            namespace=scope.namespace, version=wanted, key="", expected_digest="", found_digest="", damaged="version"
        )
    chosen = [e for e in version.entries if not keys or e.key in keys] if numbers else []
    missing = {e.certificate.digest: (e, bodies[e.key]) for e in chosen if e.certificate.digest not in have}
    return Reading(version, newest, oldest, {d: _numbers(connection, scope, wanted, e, body) for d, (e, body) in missing.items()})


def body(connection: sqlite3.Connection, scope: Scope, entry: Entry, number: int) -> Buffer:
    """`Store.body`."""
    place = {"tenant": scope.tenant, "namespace": scope.namespace, "version": number, "key": entry.key}
    row = connection.execute(SQL["find_body"], place).fetchone()
    if row is None:
        _, newest, oldest = _namespace(connection, scope)
        raise VersionCompacted(namespace=scope.namespace, version=number, oldest=oldest, current=newest)
    return _numbers(connection, scope, number, entry, row[0])


def newest(connection: sqlite3.Connection, scopes: Collection[Scope]) -> Mapping[Scope, int]:
    """`Store.newest`."""
    rows = ((scope, connection.execute(PEEK, (scope.tenant, scope.namespace)).fetchone()) for scope in scopes)
    return {scope: row[0] for scope, row in rows if row}


def remembers(connection: sqlite3.Connection, scope: Scope, method: str, request_id: str) -> bool:
    """`Store.remembers`."""
    names = {"tenant": scope.tenant, "namespace": scope.namespace, "method": method, "request_id": request_id}
    return connection.execute(SQL["find_request"], names).fetchone() is not None


def versions(connection: sqlite3.Connection, scope: Scope, before: int | None, limit: int) -> VersionPage:
    """`Store.versions`."""
    namespace_id, newest, oldest = _namespace(connection, scope)
    bounds = {"namespace_id": namespace_id, "before": newest + 1 if before is None else before, "limit": limit}
    rows = connection.execute(SQL["list_versions"], bounds).fetchall()
    return VersionPage(tuple(_version(connection, namespace_id, row[0], row)[0] for row in rows), newest, oldest)


def heads(connection: sqlite3.Connection, after: Scope | None, limit: int) -> Sequence[tuple[Scope, Version]]:
    """`Store.heads`."""
    bounds = {"tenant": after.tenant if after else "", "namespace": after.namespace if after else "", "limit": limit}
    found = []
    for namespace_id, tenant, name, version in connection.execute(SQL["list_heads"], bounds).fetchall():
        row = connection.execute(SQL["find_version"], {"namespace_id": namespace_id, "version": version}).fetchone()
        found.append((Scope(tenant, name), _version(connection, namespace_id, version, row)[0]))
    return found


def events(connection: sqlite3.Connection, after: int, limit: int) -> Sequence[StoredEvent]:
    """`Store.events`."""
    rows = connection.execute(SQL["list_events"], {"after": after, "limit": limit})
    return [codec.event_from_columns(row) for row in rows]


def _namespace(connection: sqlite3.Connection, scope: Scope) -> tuple[int, int, int]:
    row = connection.execute(SQL["find_namespace"], {"tenant": scope.tenant, "namespace": scope.namespace}).fetchone()
    if row is None:
        raise NotFound(what="namespace", namespace=scope.namespace)
    namespace_id, version, oldest = row
    return namespace_id, version, oldest


def _version(connection: sqlite3.Connection, namespace_id: int, number: int, row: _Row | None) -> tuple[Version, dict[str, int]]:
    """A version with its entries, and where the numbers of each lie; a row that is lost or damaged is told as such."""
    held: Iterable[tuple[str, str, int, int]] = connection.execute(
        SQL["list_entries"], {"namespace_id": namespace_id, "version": number}
    )
    entries, bodies = [], {}
    for key, certificate, put_version, body_id in held:
        entries.append(Entry(key, codec.certificate_from_json(certificate), put_version))
        bodies[key] = body_id
    return codec.version_from_columns(number, row[1:] if row else None, tuple(entries)), bodies


def _numbers(connection: sqlite3.Connection, scope: Scope, version: int, entry: Entry, body_id: int) -> Buffer:
    """The numbers, checked at this door too: what was certified is what is served, or nothing."""
    try:
        # Through a blob, which lets the GIL go; a column would hold it (6 to 12 ms for 8 MiB) and the event loop would wait.
        with connection.blobopen("rho_body", "numbers", body_id, readonly=True) as blob:
            numbers = blob.read()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_ERROR":
            raise
        numbers = b""  # no such row, or no blob in it: what is not there does not match its digest
    found = hashlib.sha256(numbers).digest()
    if found != entry.certificate.digest:
        raise RhoCorrupt(
            namespace=scope.namespace,
            version=version,
            key=entry.key,
            expected_digest=entry.certificate.digest.hex(),
            found_digest=found.hex(),
            # What was written beside the numbers says which of the two is damaged: they, or their certificate.
            damaged="certificate" if connection.execute(SQL["find_digest"], (body_id,)).fetchone() == (found,) else "numbers",
        )
    return numbers
