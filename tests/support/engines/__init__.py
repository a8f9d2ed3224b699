"""The engines under test, and what tests do to them behind the server's back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from sfm_grpc.model import Scope
from sfm_grpc.settings import Settings


class Engine(Protocol):
    """How to configure an engine, look into it and harm it."""

    name: str

    store: str
    """What the store says it is."""

    peeks: bool
    """Whether it says at once which version is the newest."""

    leases: bool
    """Whether a cache stands before it, which says what is live and has numbers, too."""

    def settings(self, directory: Path) -> dict[str, object]:
        """The settings of a server on a fresh store."""

    def close(self) -> None:
        """Takes away the stores that were made."""

    def fingerprint(self, settings: Settings) -> str:
        """A digest of everything that is stored: two that are equal saw the same store."""

    def bodies(self, settings: Settings) -> int:
        """How many matrices' numbers are stored."""

    def corrupt(self, settings: Settings, scope: Scope, version: int, key: str) -> None:
        """Flips a bit of the stored numbers of one key of one version."""

    def garble(self, settings: Settings, scope: Scope, version: int, key: str) -> None:
        """Makes the stored certificate of one key of one version unreadable."""

    def garble_version(self, settings: Settings, scope: Scope, version: int, how: str) -> None:
        """Damages the stored record of a version: its `metadata`, its `bytes` (no longer text), or all of it (`lost`)."""

    def lose(self, settings: Settings, scope: Scope, version: int, key: str) -> None:
        """Loses the stored numbers, and their certificate, of one key of one version."""

    def rewind(self, settings: Settings, scope: Scope, version: int) -> None:
        """Makes an earlier version, which is kept, the newest again: a backup was restored."""

    def patience(self, seconds: float) -> AbstractContextManager[None]:
        """While it lasts, an engine that is opened in this process waits this long where the store is busy."""

    def busy(self, settings: Settings) -> AbstractContextManager[None]:
        """While it lasts, every commit waits."""

    def versions(self, settings: Settings, scope: Scope) -> list[int]:
        """The stored versions of a namespace, without asking a server."""

    def damage(self, settings: Settings) -> list[str]:
        """What is wrong with the stored bytes, all of them: structure, and each matrix's digest."""

    def unplugged(self, settings: Settings) -> AbstractContextManager[None]:
        """While it lasts, the store cannot be read nor written."""


def _sqlite(_fixture: Callable[[str], Any]) -> Engine:
    from tests.support.engines.sqlite import Sqlite

    return Sqlite()


def _postgres(fixture: Callable[[str], Any]) -> Engine:
    from tests.support.engines.postgres import PostgresEngine

    return PostgresEngine(fixture("postgres"))


def _leased(fixture: Callable[[str], Any]) -> Engine:
    from tests.support.engines.leased import LeasedEngine

    return LeasedEngine(fixture("postgres"), fixture("redis_service"))


# Another engine is one more line here: the whole of tests/contract runs on it. Each is made for one test, of the fixtures it
# asks for.
ENGINES: dict[str, Callable[[Callable[[str], Any]], Engine]] = {
    "leased": _leased,
    "postgres": _postgres,
    "sqlite": _sqlite,
}
