"""The vector indexes that a server may be told of, and what tests do to them behind its back."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from sfm_grpc.settings import Settings
from tests.support.services.proxy import FaultProxy
from tests.support.services.qdrant import RunningQdrant


class Index(Protocol):
    """How to configure an index, and harm it."""

    def settings(self) -> dict[str, object]:
        """The settings of a server with this index, which is empty."""

    def lose(self, settings: Settings) -> None:
        """All that is in it is gone."""

    def unplugged(self, settings: Settings) -> AbstractContextManager[None]:
        """While it lasts, it cannot be opened."""


class EmbeddedIndex:
    """The engine in the data directory; to be harmed while no server runs."""

    def settings(self) -> dict[str, object]:
        return {}

    def lose(self, settings: Settings) -> None:
        shutil.rmtree(settings.data_dir / "vectors")

    @contextlib.contextmanager
    def unplugged(self, settings: Settings) -> Iterator[None]:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        (settings.data_dir / "vectors").write_text("not a directory")
        yield
        (settings.data_dir / "vectors").unlink()


class QdrantServerIndex:
    """A Qdrant server, through a proxy."""

    def __init__(self, service: RunningQdrant, prefix: str, proxy: FaultProxy) -> None:
        self._service = service
        self._prefix = prefix
        self._proxy = proxy

    def settings(self) -> dict[str, object]:
        told = {"qdrant_url": self._proxy.url(self._service.url), "qdrant_prefix": self._prefix}
        return told | ({"qdrant_api_key": self._service.api_key} if self._service.api_key else {})

    def lose(self, settings: Settings) -> None:
        self._service.forget(settings.qdrant_prefix)

    @contextlib.contextmanager
    def unplugged(self, settings: Settings) -> Iterator[None]:
        assert settings.qdrant_url is not None
        self._proxy.cut()
        try:
            yield
        finally:
            self._proxy.restore()
