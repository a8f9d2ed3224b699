"""Which store the settings mean, and what stands beside it; how its schema is brought up to date."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

from sfm_grpc.errors import StoreRefused
from sfm_grpc.metrics import CacheMetrics, StoreMetrics
from sfm_grpc.settings import Settings
from sfm_grpc.storage.contract import CachedStore, Store
from sfm_grpc.storage.events.contract import EventSink, Inbox
from sfm_grpc.storage.sqlite import SqliteStore
from sfm_grpc.storage.vectors.contract import VectorIndex

if TYPE_CHECKING:
    from sfm_grpc.storage.events.options import KafkaOptions
    from sfm_grpc.storage.postgres import PostgresOptions
    from sfm_grpc.storage.postgres.migrate import Migration, State
    from sfm_grpc.storage.redis import RedisCache


def build(settings: Settings, metrics: StoreMetrics) -> Store:
    """The canonical store, not yet open: Postgres where an address is set, else the embedded file."""
    if settings.postgres_url is None:
        return SqliteStore(settings.data_dir.absolute() / "sfm.db", keys_per_namespace_max=settings.keys_per_namespace_max)
    # The embedded default starts without loading the driver.
    from sfm_grpc.storage.postgres import PostgresStore

    return PostgresStore(postgres_options(settings), metrics, keys_per_namespace_max=settings.keys_per_namespace_max)


def build_cache(settings: Settings, store: Store, metrics: CacheMetrics) -> RedisCache | None:
    """The cache before the store, not yet started; None: none is configured. Raises StoreRefused for an address that is none."""
    if settings.redis_url is None or not is_cached(store):
        return None
    from sfm_grpc.storage.redis import RedisCache, RedisOptions, connection

    url = settings.redis_url.get_secret_value()
    if problem := connection.problem(url):
        raise StoreRefused(problem=f"SFM_REDIS_URL is not an address: {problem}")
    options = RedisOptions(
        url=url,
        prefix=settings.redis_prefix,
        node=settings.node,
        timeout_s=settings.rho_read_timeout_ms / 1000,
        content_timeout_s=settings.redis_content_timeout_ms / 1000,
        content_ttl_s=settings.rho_cache_ttl,
        settle_s=settings.redis_settle_s,
    )
    return RedisCache(options, lambda: store.identity, metrics)


def build_index(settings: Settings) -> VectorIndex:
    """The vector index, not yet open: a Qdrant server where an address is set, else the embedded engine in the data directory.

    Raises StoreRefused for an address that is none.
    """
    if settings.qdrant_url is None:
        from sfm_grpc.storage.vectors.edge import EdgeIndex

        return EdgeIndex(settings.data_dir.absolute() / "vectors")
    from sfm_grpc.storage.vectors import qdrant_connection
    from sfm_grpc.storage.vectors.qdrant import QdrantIndex

    url = settings.qdrant_url.get_secret_value()
    if problem := qdrant_connection.problem(url):
        raise StoreRefused(problem=f"SFM_QDRANT_URL is not an address: {problem}")
    return QdrantIndex(
        url,
        settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None,
        prefix=settings.qdrant_prefix,
        timeout_s=settings.qdrant_timeout_ms / 1000,
    )


def build_sink(settings: Settings) -> EventSink | None:
    """Where events go, not yet connected; None: they stay in the outbox. Raises StoreRefused for what librdkafka refuses."""
    if not settings.kafka_bootstrap:
        return None
    from sfm_grpc.storage.events.cloud_events import CloudEvents
    from sfm_grpc.storage.events.kafka import KafkaSink

    try:
        return KafkaSink(_kafka_options(settings), CloudEvents(settings.events_source, settings.kafka_topics))
    except ValueError as error:
        raise StoreRefused(problem=f"SFM_KAFKA_*: {error}") from error


def build_inbox(settings: Settings) -> Inbox | None:
    """Where orders come from, not yet connected; None: they only come by calls. Raises StoreRefused as `build_sink`."""
    if not (settings.kafka_bootstrap and settings.kafka_orders):
        return None
    from sfm_grpc.storage.events.kafka_inbox import KafkaInbox

    try:
        return KafkaInbox(
            _kafka_options(settings),
            topic=settings.kafka_topic_prune_order,
            refused_topic=settings.kafka_topic_prune_order_dlq,
            group=settings.kafka_group,
        )
    except ValueError as error:
        raise StoreRefused(problem=f"SFM_KAFKA_*: {error}") from error


def _kafka_options(settings: Settings) -> KafkaOptions:
    from sfm_grpc.storage.events.options import KafkaOptions

    return KafkaOptions(
        bootstrap=settings.kafka_bootstrap,
        client_id=settings.node,
        properties=settings.kafka_properties,
        topics=tuple(dict.fromkeys(settings.kafka_topics.values())),
    )


def is_cached(store: Store) -> TypeGuard[CachedStore]:
    """Whether a cache may stand before it."""
    return hasattr(store, "identity")


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
