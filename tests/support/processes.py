"""Servers as processes of their own, that can be terminated, killed and starved."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
from sfm.v1 import health_pb2_grpc, rho_store_pb2_grpc

from tests.support.servers import CHANNEL_OPTIONS

_ROOT = Path(__file__).parents[2]
_WAIT_S = 60


class ServerProcess:
    """A process that has imported everything and waits to be told its settings: `start` tells them."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.runner"],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={k: v for k, v in os.environ.items() if not k.startswith("SFM_")},
            )
        self.address = ""
        self.http_address = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """What it said on standard error."""
        return self._log.read_text()

    async def start(self, **settings: object) -> ServerProcess:
        """Serves on free ports of this machine; returns when it does."""
        told = {"listen": "127.0.0.1:0", "http_listen": "", **settings}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(told, default=str).encode() + b"\n")
        self._process.stdin.flush()
        line = await asyncio.wait_for(asyncio.to_thread(self._process.stdout.readline), _WAIT_S)
        assert line, f"the server ended before it served: {self.log}"
        addresses = json.loads(line)
        self.address, self.http_address = addresses["grpc"], addresses["http"]
        return self

    def channel(self) -> grpc.aio.Channel:
        """A channel of the caller's own, to be closed by it."""
        return grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM: drain."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL: no farewell."""
        self._process.kill()

    async def ended(self) -> int:
        """Waits for the end; returns the exit code."""
        return await asyncio.wait_for(asyncio.to_thread(self._process.wait), _WAIT_S)

    def close(self) -> None:
        """Ends it, whatever it is doing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


def rho_stub(channel: grpc.aio.Channel) -> Any:
    return rho_store_pb2_grpc.RhoStoreStub(channel)


def health_stub(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)
