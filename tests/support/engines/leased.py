"""Postgres behind Redis under test: the same database, read through leases."""

from __future__ import annotations

from pathlib import Path

from tests.support.engines.postgres import PostgresEngine
from tests.support.services.databases import Postgres
from tests.support.services.redis_process import RunningRedis


class LeasedEngine(PostgresEngine):
    """The production engine with its fast path."""

    name = "leased"
    leases = True

    def __init__(self, server: Postgres, redis: RunningRedis) -> None:
        super().__init__(server)
        self._redis = redis

    def settings(self, directory: Path) -> dict[str, object]:
        # Used at once, and not only after it has answered for seconds.
        return super().settings(directory) | {"redis_url": self._redis.url, "redis_settle_s": 0}
