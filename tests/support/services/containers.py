"""Services in containers, where Docker answers."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.services.absence import AbsentError


class Container:
    """A container of one's own, until it is stopped; testcontainers sees to it that it goes when we are killed, too."""

    def __init__(
        self,
        service: str,
        grade: str,
        image: str,
        port: int,
        *,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> None:
        """AbsentError, in the service's name, where Docker does not answer; what runs inside may not serve yet."""
        if (why_not := _why_not()) is not None:
            raise AbsentError(service, [f"{grade}: {why_not}"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # theirs are not about us
            self._container = _started(service, grade, image, port, environment or {}, command)
        self._port = port

    @property
    def address(self) -> str:
        """host:port, from here."""
        return f"{self._container.get_container_host_ip()}:{self._container.get_exposed_port(self._port)}"

    def stop(self) -> None:
        """The container goes, and what is in it."""
        self._container.stop()


def _started(service: str, grade: str, image: str, port: int, environment: Mapping[str, str], command: Sequence[str]) -> Any:
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.docker_client import DockerClient

    try:
        DockerClient().client.ping()
    except Exception as error:
        raise AbsentError(service, [f"{grade}: {error}"]) from error
    container = DockerContainer(image).with_exposed_ports(port)
    for name, value in environment.items():
        container.with_env(name, value)
    if command:
        container.with_command(list(command))
    return container.start()


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
