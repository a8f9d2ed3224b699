"""Postgres in a container, where Docker answers."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import psycopg

from tests.support.services.absence import AbsentError
from tests.support.services.databases import Postgres

IMAGE = "postgres:18-alpine"
_STARTS_S = 120.0


class DockerPostgres(Postgres):
    """A container of its own, until it is closed; testcontainers sees to it that it goes when we are killed, too."""

    def __init__(self, grade: str = "docker") -> None:
        if not _somebody_listens():
            raise AbsentError("postgres", [f"{grade}: no DOCKER_HOST, and no socket where Docker has it"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs, while they are imported
            from testcontainers.core.container import DockerContainer
            from testcontainers.core.docker_client import DockerClient
        try:
            DockerClient().client.ping()
        except Exception as error:
            raise AbsentError("postgres", [f"{grade}: {error}"]) from error
        container = DockerContainer(IMAGE).with_env("POSTGRES_PASSWORD", "sfm").with_exposed_ports(5432)
        self._container = container.start()
        try:
            where = f"{container.get_container_host_ip()}:{container.get_exposed_port(5432)}"
            super().__init__(f"postgresql://postgres:sfm@{where}/postgres")
            self.name = f"{IMAGE} (docker)"
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


def _somebody_listens() -> bool:
    """Cheaper than to import a client first."""
    run = os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")
    usual = [Path("/var/run/docker.sock"), Path(run) / "docker.sock", Path.home() / ".docker/run/docker.sock"]
    return bool(os.environ.get("DOCKER_HOST")) or any(path.exists() for path in usual)
