"""A Qdrant for tests: the one that `SFM_TEST_QDRANT_URL` names, else a stand-in that speaks its wire (`qdrant_wire`)."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import grpc
from qdrant_client import QdrantClient

from tests.support.paths import ROOT
from tests.support.services import ports
from tests.support.services.absence import AbsentError
from tests.support.services.kept import WAIT_S, Account, Kept
from tests.support.services.places import remove, temporary

URL = "SFM_TEST_QDRANT_URL"
API_KEY = "SFM_TEST_QDRANT_API_KEY"


class RunningQdrant:
    """A running server, whoever started it."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url
        self.api_key = api_key

    def close(self) -> None:
        """It stays: it is not ours."""

    @contextlib.contextmanager
    def connect(self) -> Iterator[QdrantClient]:
        """Qdrant's own client."""
        parts = urlsplit(self.url)
        headers = {"api-key": self.api_key} if self.api_key else None
        client = QdrantClient(
            host=parts.hostname,
            grpc_port=parts.port or 6334,
            https=parts.scheme == "https",
            headers=headers,
            prefer_grpc=True,
            check_compatibility=False,
        )
        with contextlib.closing(client):
            yield client

    def collections(self, prefix: str) -> list[str]:
        """Names that begin so."""
        with self.connect() as client:
            return sorted(c.name for c in client.get_collections().collections if c.name.startswith(prefix))

    def forget(self, prefix: str) -> None:
        """Deletes all collections whose names begin so: to whoever has the prefix, the server is emptied."""
        with self.connect() as client:
            for name in self.collections(prefix):
                client.delete_collection(name)


class QdrantStandIn(RunningQdrant):
    """A stand-in on a port of its own, that may be stopped, killed, frozen and emptied; gone with its data when it is closed."""

    def __init__(self, *, version: str = "1.19.0", api_key: str | None = None) -> None:
        self.port = ports.free()
        super().__init__(f"http://127.0.0.1:{self.port}", api_key)
        self._account = Account(pwd.getpwuid(os.geteuid()).pw_name, -1, -1)
        self._root = temporary(self._account, "qdrant")
        self._data = self._root / "data"
        self._told = [self._data, self.port, version, *([api_key] if api_key else [])]
        self._kept: Kept | None = None

    def start(self) -> Self:
        """Returns when it answers, with what it had."""
        self._data.mkdir(exist_ok=True)
        command = [
            "/usr/bin/env",
            f"PYTHONPATH={ROOT}",
            sys.executable,
            "-m",
            "tests.support.services.qdrant_process",
            *self._told,
        ]
        self._kept = Kept(command, account=self._account, log=self._log, farewell=signal.SIGKILL, remove=self._root)
        with grpc.insecure_channel(f"127.0.0.1:{self.port}", options=[("grpc.max_reconnect_backoff_ms", 100)]) as channel:
            ready, end = grpc.channel_ready_future(channel), time.monotonic() + WAIT_S
            while True:
                try:
                    ready.result(0.1)
                    return self
                except grpc.FutureTimeoutError:
                    assert self._kept.running, f"the stand-in did not start: {self._log.read_text()}"
                    assert time.monotonic() < end, f"the stand-in does not answer: {self._log.read_text()}"

    @property
    def _log(self) -> Path:
        return self._root / "log"

    def kill(self) -> None:
        """SIGKILL: no farewell."""
        assert self._kept is not None
        self._kept.send_all(signal.SIGKILL)
        self._kept.wait()

    def wipe(self) -> None:
        """While it is down: it forgets everything."""
        shutil.rmtree(self._data)

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nobody answers."""
        assert self._kept is not None
        self._kept.send_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on as if nothing had been."""
        assert self._kept is not None
        self._kept.send_all(signal.SIGCONT)

    def close(self) -> None:
        """The end, whatever state it is in."""
        if self._kept is not None:
            self._kept.close()
        remove(self._root)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def find_qdrant() -> RunningQdrant:
    """A running one; close it."""
    if url := os.environ.get(URL):
        return RunningQdrant(url, os.environ.get(API_KEY))
    return QdrantStandIn().__enter__()  # which closes it if it does not start


def own_qdrant(*, version: str = "1.19.0", api_key: str | None = None) -> QdrantStandIn:
    """One that is the caller's to start, kill and close. AbsentError where a server is named: that one is not ours to kill."""
    if os.environ.get(URL):
        raise AbsentError("qdrant", [f"{URL} names a server that is not ours to stop, kill or empty"])
    return QdrantStandIn(version=version, api_key=api_key)
