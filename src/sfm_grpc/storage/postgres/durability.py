"""What a server must promise before anything is acknowledged on its word."""

from __future__ import annotations

from psycopg import AsyncConnection

from sfm_grpc.errors import StoreRefused
from sfm_grpc.storage.postgres.connection import SQL

# The oldest that its own makers still mend.
_VERSION_MIN = 140_000


async def check(connection: AsyncConnection, *, allow_unsafe: bool) -> str:
    """Raises StoreRefused for a server that may lose what it acknowledges (unless allowed), or that takes no commits.

    Returns what was allowed, '' when nothing had to be.
    """
    if connection.info.server_version < _VERSION_MIN:
        raise StoreRefused(
            problem=f"Postgres {connection.info.server_version // 10_000} is too old: {_VERSION_MIN // 10_000} or newer is needed"
        )
    row = await (await connection.execute(SQL["describe"])).fetchone()
    assert row is not None
    standby, read_only, encoding, fsync, full_page_writes, synchronous_commit = row
    if standby:
        raise StoreRefused(problem="Postgres is a standby: it takes no commits; name the primary in SFM_POSTGRES_URL")
    if read_only == "on":
        raise StoreRefused(problem="Postgres is read-only for this user (default_transaction_read_only is on)")
    if encoding != "UTF8":
        raise StoreRefused(problem=f"the database's encoding is {encoding}: create one with UTF8")
    settings = {"fsync": fsync, "full_page_writes": full_page_writes, "synchronous_commit": synchronous_commit}
    unsafe = ", ".join(f"{name} = off" for name, value in settings.items() if value == "off")
    if unsafe and not allow_unsafe:
        raise StoreRefused(
            problem=f"Postgres may lose what it acknowledges ({unsafe}): turn it on, or say --allow-unsafe-durability "
            "(SFM_ALLOW_UNSAFE_DURABILITY=1) where losing commits does not matter"
        )
    return unsafe


async def identity(connection: AsyncConnection) -> str:
    """See `storage.contract.CachedStore`."""
    row = await (await connection.execute(SQL["identify"])).fetchone()
    assert row is not None
    return str(row[0])


async def check_rights(connection: AsyncConnection) -> None:
    """Raises StoreRefused for a user who may not write what is to be written."""
    tables = await (await connection.execute(SQL["list_unwritable"])).fetchall()
    if tables:
        names = ", ".join(f"sfm.{name}" for (name,) in tables)
        raise StoreRefused(
            problem=f"Postgres: {connection.info.user!r} may not read and write {names}: GRANT SELECT, INSERT, UPDATE, DELETE "
            f'ON ALL TABLES IN SCHEMA sfm TO "{connection.info.user}"'
        )
