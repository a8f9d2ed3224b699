"""Questions to Postgres, one statement and one round trip each, so each is one consistent look."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from psycopg import AsyncConnection

from sfm_grpc.errors import NotFound, RhoCorrupt, VersionCompacted
from sfm_grpc.model import CacheSeen, CacheState, Entry, Scope, Version
from sfm_grpc.storage import codec, statements
from sfm_grpc.storage.contract import VersionPage
from sfm_grpc.storage.outbox_contract import StoredEvent
from sfm_grpc.storage.postgres.readings import Found, Stored

SQL = statements.load(__package__, "reads.sql")

# Of heads: so many certificates are a few milliseconds of the event loop.
_KEYS_AT_ONCE = 2048

_Row = tuple[Any, ...]


async def read(
    connection: AsyncConnection, scope: Scope, number: int | None, keys: Sequence[str], have: Collection[bytes], *, numbers: bool
) -> Found:
    """`Store.read`, without looking at the numbers: that is work for a thread."""
    asked = {"number": number, "keys": list(keys), "have": list(have), "numbers": numbers}
    cursor = await connection.execute(SQL["read"], _scope(scope) | asked, binary=True)
    rows: list[_Row] = await cursor.fetchall()
    if not rows:
        raise NotFound(what="namespace", namespace=scope.namespace)
    _, newest, oldest, *cached = rows[0][:7]
    lost, *columns = rows[0][7:14]
    wanted = newest if number is None else number
    if wanted > newest:
        raise NotFound(what="version", namespace=scope.namespace, names=(str(wanted),), current=newest)
    if lost and wanted != newest:
        raise VersionCompacted(namespace=scope.namespace, version=wanted, oldest=oldest, current=newest)
    held = [row[14:] for row in rows if row[14] is not None]
    entries = tuple(_entry(key, put_version, certificate) for key, put_version, certificate, *_ in held)
    version = codec.version_from_columns(wanted, None if lost else columns, entries)
    if version.unreadable:
        raise RhoCorrupt(
            namespace=scope.namespace, version=wanted, key="", expected_digest="", found_digest="", damaged="version"
        )
    chosen = [
        Stored(entry, sha256, packed, body)
        for entry, (_, _, _, sha256, packed, body) in zip(entries, held, strict=True)
        if numbers and (not keys or entry.key in keys) and entry.certificate.digest not in have
    ]
    return Found(version, newest, oldest, chosen, seen(newest, *cached))


async def body(connection: AsyncConnection, scope: Scope, entry: Entry, number: int) -> Stored:
    """`Store.body`, without looking at the numbers."""
    asked = {"number": number, "key": entry.key}
    cursor = await connection.execute(SQL["find_body"], _scope(scope) | asked, binary=True)
    row = await cursor.fetchone()
    if row is None:
        raise NotFound(what="namespace", namespace=scope.namespace)
    newest, oldest, held, sha256, packed, numbers = row
    if not held:
        raise VersionCompacted(namespace=scope.namespace, version=number, oldest=oldest, current=newest)
    return Stored(entry, sha256, packed, numbers)


async def newest(connection: AsyncConnection, scopes: Collection[Scope]) -> Mapping[Scope, int]:
    """`Store.newest`."""
    asked = {"tenants": [s.tenant for s in scopes], "namespaces": [s.namespace for s in scopes]}
    cursor = await connection.execute(SQL["newest"], asked, binary=True)
    return {Scope(tenant, namespace): version for tenant, namespace, version in await cursor.fetchall()}


async def remembers(connection: AsyncConnection, scope: Scope, method: str, request_id: str) -> bool:
    """`Store.remembers`."""
    names = {"method": method, "request_id": request_id}
    cursor = await connection.execute(SQL["remembers"], _scope(scope) | names, binary=True)
    return await cursor.fetchone() is not None


async def versions(connection: AsyncConnection, scope: Scope, before: int | None, limit: int) -> Callable[[], VersionPage]:
    """`Store.versions`; the page is put together when it is asked for, and that is work for a thread."""
    cursor = await connection.execute(SQL["list_versions"], _scope(scope) | {"before": before, "limit": limit}, binary=True)
    rows: list[_Row] = await cursor.fetchall()
    if not rows:
        raise NotFound(what="namespace", namespace=scope.namespace)
    return lambda: _page(rows)


def _page(rows: Sequence[_Row]) -> VersionPage:
    *listed, (newest, oldest, *_, keys, put_versions, certificates) = rows
    # Postgres makes NULL of no rows, where no version holds anything.
    held = {(e.key, e.put_version): e for e in map(_entry, keys or (), put_versions or (), certificates or ())}
    versions = (
        codec.version_from_columns(number, columns, tuple(map(held.__getitem__, zip(keys, put_versions, strict=True))))
        for _, _, number, *columns, keys, put_versions, _ in listed
    )
    return VersionPage(tuple(versions), newest, oldest)


async def heads(connection: AsyncConnection, after: Scope | None, limit: int) -> Callable[[], list[tuple[Scope, Version]]]:
    """The first of `Store.heads`: as many as are a moment's work, none where there are no more. As `versions`, for a thread."""
    bounds = {**_scope(after or Scope("", "")), "limit": limit, "most": _KEYS_AT_ONCE}
    cursor = await connection.execute(SQL["list_heads"], bounds, binary=True)
    rows: list[_Row] = await cursor.fetchall()
    return lambda: [_head(*row) for row in rows]


def _head(tenant: str, name: str, number: int, lost: bool, *found: Any) -> tuple[Scope, Version]:
    *columns, keys, put_versions, certificates = found
    entries = tuple(map(_entry, keys, put_versions, certificates))
    return Scope(tenant, name), codec.version_from_columns(number, None if lost else columns, entries)


async def events(connection: AsyncConnection, after: int, limit: int) -> Sequence[StoredEvent]:
    """`Store.events`."""
    cursor = await connection.execute(SQL["list_events"], {"after": after, "limit": limit}, binary=True)
    return [codec.event_from_columns(row) for row in await cursor.fetchall()]


def _entry(key: str, put_version: int, certificate: str | None) -> Entry:
    return Entry(key, codec.certificate_from_json(certificate or ""), put_version)


def seen(version: int, state: int, name: str, epoch: int, held: bool) -> CacheSeen:
    """What a head's columns say of its cache."""
    return CacheSeen(version, CacheState(state), name, epoch, held)


def _scope(scope: Scope) -> dict[str, object]:
    return {"tenant": scope.tenant, "namespace": scope.namespace}
