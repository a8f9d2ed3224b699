"""Server processes with failpoints: on ports of their own that they keep, so that whoever was connected finds them again."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.support import failpoints, mutants, processes, runner
from tests.support.processes import ServerProcess
from tests.support.services import ports

# Loaded once, before they fork: the driver too.
processes._FORKS.set_forkserver_preload(
    ["tests.support.runner", "tests.faults.servers", "sfm_grpc.storage.postgres", "sfm_grpc.storage.redis"]
)


class FailingServer(ServerProcess):
    """One server, started again and again."""

    def __init__(self, log: Path, **settings: object) -> None:
        super().__init__(log)
        self._listen = f"127.0.0.1:{ports.free()}"
        self._settings = settings
        self._failpoints = ""
        self.address = self._listen
        self.without = ""
        """The part of the cache protocol that it has to do without."""
        self.may_complain = False
        """Its log may hold a traceback: the test has caused one."""

    async def begin(self, failpoints: str = "", **settings: object) -> FailingServer:
        """Serves, with these failpoints, on its own address."""
        self.close()
        self._failpoints = failpoints
        await self.start(listen=self._listen, **self._settings | settings)
        return self

    async def begin_and_die(self, failpoints: str, **settings: object) -> None:
        """Dies of a failpoint, as soon as it starts or once it serves."""
        with contextlib.suppress(AssertionError):
            await self.begin(failpoints, **settings)
        await self.die()

    async def die(self) -> None:
        """Waits until a failpoint has killed it, or somebody else."""
        assert await self.ended() == -signal.SIGKILL, f"{self._failpoints}: {self.log}"

    @property
    def complaints(self) -> list[str]:
        """What it says it did not foresee: errors with a traceback."""
        records = re.split(r"^(?=[A-Z]+:)", self.log, flags=re.MULTILINE)
        return [record for record in records if record.startswith(("ERROR", "CRITICAL")) and "Traceback" in record]

    def _start(self, told: dict[str, object], file_bytes_max: int | None) -> None:
        ours, theirs = processes._FORKS.Pipe(duplex=False)
        with ours:
            with theirs:
                arguments = (self._failpoints, self.without, theirs, str(self._log), told, file_bytes_max)
                self._process = processes._FORKS.Process(target=run, args=arguments, daemon=True)
                self._process.start()
            assert ours.poll(processes._WAIT_S), f"the server does not serve: {self.log}"
            try:
                self.address, self.http_address = ours.recv()
            except EOFError:
                raise AssertionError(f"the server ended before it served: {self.log}") from None


def run(armed: str, without: str, parent: Connection, log: str, told: Mapping[str, object], file_bytes_max: int | None) -> None:
    """What such a process runs: the same as every server of the tests, its seams wrapped first."""
    patch = pytest.MonkeyPatch()
    mutants.with_a_clock_that_steps(patch)
    if without:
        mutants.without(without, patch)
    failpoints.install(armed)
    runner.run(parent, log, told, file_bytes_max)
