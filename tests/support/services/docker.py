"""Postgres in a container, where Docker answers."""

from __future__ import annotations

import os
import socket
import time
import warnings
from pathlib import Path
from typing import Any

import psycopg

from tests.support.services.absence import AbsentError
from tests.support.services.databases import Postgres

IMAGE = "postgres:18-alpine"
_STARTS_S = 120.0


class DockerPostgres(Postgres):
    """A container of its own, until it is closed; testcontainers sees to it that it goes when we are killed, too."""

    def __init__(self, grade: str = "docker") -> None:
        if (why_not := _why_not()) is not None:
            raise AbsentError("postgres", [f"{grade}: {why_not}"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs are not about us
            self._container = _started(grade)
        try:
            where = f"{self._container.get_container_host_ip()}:{self._container.get_exposed_port(5432)}"
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


def _started(grade: str) -> Any:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.docker_client import DockerClient

    try:
        DockerClient().client.ping()
    except Exception as error:
        raise AbsentError("postgres", [f"{grade}: {error}"]) from error
    return DockerContainer(IMAGE).with_env("POSTGRES_PASSWORD", "sfm").with_exposed_ports(5432).start()


def _why_not() -> str | None:
    """Why nobody answers, found out cheaply; None where somebody may."""
    told = os.environ.get("DOCKER_HOST", "")
    if told and not told.startswith("unix://"):
        return None
    run = os.environ.get("XDG_RUNTIME_DIR", "/nonexistent")
    usual = [Path("/var/run/docker.sock"), Path(run, "docker.sock"), Path.home() / ".docker/run/docker.sock"]
    places = [Path(told.removeprefix("unix://"))] if told else [path for path in usual if path.exists()]
    reasons = []
    for path in places:
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.connect(str(path))
            except OSError as error:
                reasons.append(f"{path}: {error.strerror}")
            else:
                return None
    return ", ".join(reasons) or "no DOCKER_HOST, and no socket where Docker has it"
