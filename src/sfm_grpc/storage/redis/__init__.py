"""The cache before Postgres: leases in Redis or Valkey, alone, in a Cluster or behind Sentinels. redis-py is spoken here only."""

from sfm_grpc.storage.redis.cache import RedisCache
from sfm_grpc.storage.redis.options import RedisOptions

__all__ = ["RedisCache", "RedisOptions"]
