"""What a head's row says of its cache, asked and changed; see `storage.contract.CachedStore`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from psycopg import AsyncConnection

from sfm_grpc.errors import NotFound
from sfm_grpc.model import CacheSeen, Scope
from sfm_grpc.storage import statements
from sfm_grpc.storage.postgres.reads import seen

SQL = statements.load(__package__, "cache.sql")


async def see(connection: AsyncConnection, scope: Scope) -> CacheSeen:
    """The row as it is."""
    place = {"tenant": scope.tenant, "namespace": scope.namespace}
    row = await (await connection.execute(SQL["see"], place, binary=True)).fetchone()
    if row is None:
        raise NotFound(what="namespace", namespace=scope.namespace)
    return seen(*row)


async def see_all(connection: AsyncConnection, scopes: Collection[Scope]) -> Mapping[Scope, CacheSeen]:
    """`CachedStore.caches_seen`."""
    asked = {"tenants": [s.tenant for s in scopes], "namespaces": [s.namespace for s in scopes]}
    cursor = await connection.execute(SQL["see_all"], asked, binary=True)
    return {Scope(tenant, name): seen(*found) for tenant, name, *found in await cursor.fetchall()}


async def change(connection: AsyncConnection, scope: Scope, how: str, *, cache: str = "", epoch: int = 0) -> CacheSeen:
    """Turns it `on`, `off` or `drained`, where it may be; the row afterwards."""
    values = {"tenant": scope.tenant, "namespace": scope.namespace, "cache": cache, "epoch": epoch}
    await connection.execute(SQL[how], values)
    return await see(connection, scope)


async def hold(connection: AsyncConnection, tenant: str, namespace: str, *, held: bool) -> int:
    """`CachedStore.cache_hold`."""
    cursor = await connection.execute(SQL["hold"], {"tenant": tenant, "namespace": namespace, "held": held})
    return cursor.rowcount


async def listed(connection: AsyncConnection, tenant: str, after: str, limit: int) -> Sequence[tuple[str, CacheSeen]]:
    """`CachedStore.caches`."""
    cursor = await connection.execute(SQL["list"], {"tenant": tenant, "after": after, "limit": limit}, binary=True)
    return [(name, seen(*found)) for name, *found in await cursor.fetchall()]
