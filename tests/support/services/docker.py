"""Postgres and Redis in containers."""

from __future__ import annotations

import time

import psycopg
import redis

from tests.support.services.containers import Container
from tests.support.services.databases import Postgres
from tests.support.services.redis_process import RunningRedis

POSTGRES, REDIS = "postgres:18-alpine", "redis:8-alpine"
_STARTS_S = 120.0


class DockerPostgres(Postgres):
    """A container of its own, until it is closed."""

    def __init__(self, grade: str = "docker") -> None:
        self._container = Container("postgres", grade, POSTGRES, 5432, environment={"POSTGRES_PASSWORD": "sfm"})
        try:
            super().__init__(f"postgresql://postgres:sfm@{self._container.address}/postgres")
            self.name = f"{POSTGRES} (docker)"
            self._await_ready()
        except BaseException:
            self._container.stop()
            raise

    def _await_ready(self) -> None:
        """By TCP: the server that the image runs to initialize itself has but its Unix socket."""
        until = time.monotonic() + _STARTS_S
        while True:
            try:
                return self.connect(connect_timeout=5).close()
            except psycopg.OperationalError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def close(self) -> None:
        """The container goes, and its databases with it."""
        self._container.stop()


class DockerRedis(RunningRedis):
    """A container of its own, until it is closed."""

    def __init__(self, grade: str = "docker") -> None:
        command = ["redis-server", "--save", "", "--appendonly", "no"]
        self._container = Container("redis", grade, REDIS, 6379, command=command)
        try:
            super().__init__(f"redis://{self._container.address}/0", f"{REDIS} (docker)")
            self._await_ready()
        except BaseException:
            self._container.stop()
            raise

    def _await_ready(self) -> None:
        until = time.monotonic() + _STARTS_S
        while True:
            try:
                with self.client() as c:
                    c.ping()
                return
            except (redis.ConnectionError, redis.TimeoutError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def close(self) -> None:
        """The container goes, and its keys with it."""
        self._container.stop()
