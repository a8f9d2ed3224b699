"""A data plane of one's own for as long as a demo lasts: started, killed and started again as a process."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from examples.cognitive_manager import store
from examples.cognitive_manager.store import SFM, Store
from sfm_grpc.client import Client

_START_S = 60.0
_STOP_S = 15.0
# Below the range that connections go out from: a client that keeps calling a port nobody listens on could otherwise meet itself.
_PORTS = range(20_000, 32_000)


class ServerFailedError(Exception):
    """The server did not start, or ended by itself; `str()` has the end of its log."""


class ServerProcess:
    """One server. Its port stays the same from start to start, as its callers expect."""

    def __init__(self, directory: Path, kept: Store | None = None, *, name: str = "the server") -> None:
        """Its log lies in `directory`, and its store too if `kept` names none; other servers may have the same store."""
        self.name = name
        self.target = f"127.0.0.1:{_free_port()}"
        self._directory = directory
        self._log = directory / f"{name.replace(' ', '-')}.log"
        self._settings = {
            "SFM_LISTEN": self.target,
            "SFM_HTTP_LISTEN": "",
            # Servers, managers and databases share a few cores: to be late is no reason to be refused here.
            "SFM_SHED_WAIT_MS": "5000",
            # Where the store is elsewhere, the index of its memories is here, one for each server.
            "SFM_DATA_DIR": str(directory / name.replace(" ", "-")),
            **(kept or store.embedded(directory)).settings,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.launch()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def launch(self) -> None:
        """Starts it, and does not wait for it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*SFM, "serve"],
                env=store.environment(self._settings),
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> None:
        """Returns when calls are answered, from the store. Raises ServerFailedError."""
        deadline = time.monotonic() + _START_S
        while not self._listens():
            if not self.alive or time.monotonic() > deadline:
                raise self.failure("did not start")
            time.sleep(0.02)
        with Client(self.target, timeout_s=_START_S) as client:
            while not client.health().ready:
                if not self.alive or time.monotonic() > deadline:
                    raise self.failure("is not ready")
                time.sleep(0.02)

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
        return ServerFailedError("\n".join([f"{self.name} {what}; its last words:", *lines]))

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


def joint_target(servers: Sequence[ServerProcess], first: int = 0) -> str:
    """All of them as one gRPC name: who calls it is answered by `first`, and by the next one while that is gone."""
    first %= len(servers)
    addresses = [server.target for server in (*servers[first:], *servers[:first])]
    return addresses[0] if len(addresses) == 1 else f"ipv4:{','.join(addresses)}"


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
