"""Services to develop with: each outlives the command that starts it, and stays on its port, with what is its under ./var."""

from __future__ import annotations

import contextlib
import json
import socket
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.support.paths import ROOT
from tests.support.services.kept import Account

HOME = ROOT / "var" / "services"


class UnusableError(Exception):
    """Why there is no development service here, and what to do."""


class DevelopmentService(ABC):
    """One server of a directory. What is so, the server itself says; the state file is for programs that want to know."""

    name: str
    title: str
    variable: str
    """Where `sfm` reads its URL."""
    keeps: str
    """What is left of its data when it is stopped, as a sentence's end."""
    first_port: int

    def __init__(self, home: Path = HOME) -> None:
        self._home = home / self.name
        self._log, self._state = self._home / "log", home / "state.json"

    @property
    def where(self) -> str:
        """What is its, as one would type it."""
        return str(self._home.relative_to(ROOT) if self._home.is_relative_to(ROOT) else self._home)

    @property
    @abstractmethod
    def url(self) -> str | None:
        """What the server is told; None while it is down."""

    @abstractmethod
    def up(self) -> str:
        """Starts it if it is down; its URL."""

    @abstractmethod
    def down(self) -> bool:
        """Stops it; whether it was up."""

    def _prepare(self, account: Account) -> None:
        self._home.mkdir(parents=True, exist_ok=True)
        account.own(self._home)
        if not account.may("-w", self._home):
            raise UnusableError(
                f"root runs {self.title} as {account.name}, who may not enter {self._home}: name another place with --dir"
            )

    def _remember(self, **facts: str) -> None:
        state = self._remembered() | {self.name: facts}
        self._state.write_text(json.dumps(state, indent=2) + "\n")

    def _remembered(self) -> dict[str, Any]:
        return dict(json.loads(self._state.read_text())) if self._state.exists() else {}

    def _port_before(self) -> int:
        """The last one, so that a URL that was exported stays good."""
        return urlsplit(self._remembered().get(self.name, {}).get("url", "")).port or self.first_port

    def _free_port(self) -> int:
        first = self._port_before()
        for port in range(first, first + 100):
            with contextlib.suppress(OSError), socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(("127.0.0.1", port))
                return port
        raise UnusableError(f"no port is free from {first} to {first + 99}")
