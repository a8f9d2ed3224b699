"""Servers as processes of their own, that can be terminated, killed and starved.

They are forked from one process that has imported everything, so that a test may start many.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import grpc
from sfm.v1 import health_pb2_grpc, rho_store_pb2_grpc

from tests.support import runner
from tests.support.servers import CHANNEL_OPTIONS, UNHURRIED

_WAIT_S = 60
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.support.runner"])


class ServerProcess:
    """One server process."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._log.touch()
        self._process: Any = None
        self.address = ""
        self.http_address = ""

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def log(self) -> str:
        """What it said on standard error."""
        return self._log.read_text()

    async def start(self, *, file_bytes_max: int | None = None, **settings: object) -> ServerProcess:
        """Serves on free ports of this machine; returns when it does.

        `file_bytes_max` is the operating system's bound on the size of its files.
        """
        await asyncio.to_thread(self._start, {**UNHURRIED, **settings}, file_bytes_max)
        return self

    def _start(self, told: dict[str, object], file_bytes_max: int | None) -> None:
        ours, theirs = _FORKS.Pipe(duplex=False)
        with ours:
            with theirs:
                arguments = (theirs, str(self._log), told, file_bytes_max)
                self._process = _FORKS.Process(target=runner.run, args=arguments, daemon=True)
                self._process.start()
            assert ours.poll(_WAIT_S), f"the server does not serve: {self.log}"
            try:
                self.address, self.http_address = ours.recv()
            except EOFError:
                raise AssertionError(f"the server ended before it served: {self.log}") from None

    def channel(self) -> grpc.aio.Channel:
        """A channel of the caller's own, to be closed by it."""
        return grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM: drain."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: no farewell."""
        self.signal(signal.SIGKILL)

    async def ended(self) -> int:
        """Waits for the end; returns the exit code."""
        await asyncio.to_thread(self._process.join, _WAIT_S)
        assert self._process.exitcode is not None, f"the server does not end: {self.log}"
        return int(self._process.exitcode)

    def close(self) -> None:
        """Ends it, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None


def rho_stub(channel: grpc.aio.Channel) -> Any:
    return rho_store_pb2_grpc.RhoStoreStub(channel)


def health_stub(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)
