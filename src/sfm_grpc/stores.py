"""Which store the settings mean, and how its schema is brought up to date."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sfm_grpc.metrics import StoreMetrics
from sfm_grpc.settings import Settings
from sfm_grpc.storage.contract import Store
from sfm_grpc.storage.sqlite import SqliteStore

if TYPE_CHECKING:
    from sfm_grpc.storage.postgres import PostgresOptions
    from sfm_grpc.storage.postgres.migrate import Migration, State


def build(settings: Settings, metrics: StoreMetrics) -> Store:
    """The canonical store, not yet open: Postgres where an address is set, else the embedded file."""
    if settings.postgres_url is None:
        return SqliteStore(settings.data_dir.absolute() / "sfm.db", keys_per_namespace_max=settings.keys_per_namespace_max)
    # The embedded default starts without loading the driver.
    from sfm_grpc.storage.postgres import PostgresStore

    return PostgresStore(postgres_options(settings), metrics, keys_per_namespace_max=settings.keys_per_namespace_max)


def postgres_options(settings: Settings) -> PostgresOptions:
    """What `SFM_POSTGRES_*` says. Needs `SFM_POSTGRES_URL`."""
    from sfm_grpc.storage.postgres import PostgresOptions

    assert settings.postgres_url is not None
    return PostgresOptions(
        url=settings.postgres_url.get_secret_value(),
        node=settings.node,
        pool_min=settings.postgres_pool_min,
        pool_max=settings.postgres_pool_max,
        pool_wait_s=settings.postgres_pool_wait_ms / 1000,
        pool_waiting_max=settings.postgres_pool_waiting_max,
        connect_timeout_s=settings.postgres_connect_timeout_s,
        statement_timeout_s=settings.postgres_statement_timeout_ms / 1000,
        lock_timeout_s=settings.postgres_lock_timeout_ms / 1000,
        migrate=settings.postgres_migrate,
        allow_unsafe_durability=settings.allow_unsafe_durability,
    )


def place(settings: Settings) -> str:
    """Where the data is, in words and without any secret."""
    if settings.postgres_url is None:
        return str(settings.data_dir.resolve())
    from sfm_grpc.storage.postgres import connection

    return f"Postgres at {connection.place(postgres_options(settings))}"


async def migrate(settings: Settings) -> Sequence[Migration]:
    """Brings Postgres' schema up to date; what was applied. Needs `SFM_POSTGRES_URL`. Raises StoreUnavailable, StoreRefused."""
    from sfm_grpc.storage.postgres import migrate

    return await migrate.migrate(postgres_options(settings))


async def schema(settings: Settings) -> State:
    """Where Postgres' schema is; changes nothing. Needs `SFM_POSTGRES_URL`. Raises StoreUnavailable, StoreRefused."""
    from sfm_grpc.storage.postgres import migrate

    return await migrate.look(postgres_options(settings))
