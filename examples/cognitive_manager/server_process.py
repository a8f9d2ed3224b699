"""A data plane of one's own for as long as a demo lasts: started, killed and started again as a process."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from sfm_grpc.client import Client

SERVE = (sys.executable, "-m", "sfm_grpc.cli", "serve")

_START_S = 30.0
_STOP_S = 15.0
# Below the range that connections go out from: a client that keeps calling a port nobody listens on could otherwise meet itself.
_PORTS = range(20_000, 32_000)


class ServerFailedError(Exception):
    """The server did not start, or ended by itself; `str()` has the end of its log."""


class ServerProcess:
    """One server over one directory. Its port stays the same from start to start, as its callers expect."""

    def __init__(self, directory: Path, *, history_versions: int = 1000) -> None:
        self.target = f"127.0.0.1:{_free_port()}"
        self.directory = directory
        self._log = directory / "server.log"
        self._settings = {
            "SFM_LISTEN": self.target,
            "SFM_HTTP_LISTEN": "",
            "SFM_DATA_DIR": str(directory / "data"),
            # The check at the end walks through all of it.
            "SFM_RHO_HISTORY_VERSIONS": str(history_versions),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.launch()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def launch(self) -> None:
        """Starts it, and does not wait for it."""
        others = {name: value for name, value in os.environ.items() if not name.startswith("SFM_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                SERVE, env=others | self._settings, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_ready(self) -> None:
        """Returns when calls are answered. Raises ServerFailedError."""
        deadline = time.monotonic() + _START_S
        while not self._listens():
            if not self.alive or time.monotonic() > deadline:
                raise self.failure("did not start")
            time.sleep(0.02)
        with Client(self.target, timeout_s=_START_S) as client:
            client.server_info()

    @property
    def alive(self) -> bool:
        """The process runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL: no goodbye, nothing flushed."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: calls in flight are finished. Idempotent."""
        self._end(signal.SIGTERM)

    def failure(self, what: str) -> ServerFailedError:
        """An error that says what the server said last."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return ServerFailedError("\n".join([f"the server {what}; its last words:", *lines]))

    def disk_bytes(self) -> int:
        """What the store occupies."""
        return sum(path.stat().st_size for path in (self.directory / "data").rglob("*") if path.is_file())

    def _end(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _listens(self) -> bool:
        host, _, port = self.target.rpartition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0


def _free_port() -> int:
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port from {_PORTS.start} to {_PORTS.stop} is free")
