"""`sfm` as a user runs it: the command in a process of its own, against `sfm serve` in another."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest import mock

from sfm_grpc.cli import root

SFM = (sys.executable, "-m", "sfm_grpc.cli")
_WAIT_S = 60


def run(*arguments: object, code: int = 0, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end, which must be `code`, and never a traceback."""
    ran = subprocess.run(
        [*SFM, *map(str, arguments)],
        cwd=cwd,
        env=_environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_WAIT_S,
        check=False,
    )
    assert ran.returncode == code, f"exit code {ran.returncode}, not {code}\n{ran.stdout}\n{ran.stderr}"
    assert "Traceback" not in ran.stdout + ran.stderr
    return ran


def here(*arguments: object, code: int = 0, env: Mapping[str, str] | None = None) -> Ran:
    """The same command in this process: quicker, for what does not depend on a process of its own."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        mock.patch.dict(os.environ, _environment(env), clear=True),
        mock.patch.object(sys, "argv", ["sfm", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _logging_restored(),
    ):
        found = root.run()
    ran = Ran(*(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined]
    assert found == code, f"exit code {found}, not {code}\n{ran.stdout}\n{ran.stderr}"
    return ran


@contextlib.contextmanager
def _logging_restored() -> Iterator[None]:
    """A command that says where log lines go says so for its whole process; here for itself alone."""
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.raiseExceptions = raises
        logging.captureWarnings(False)


@dataclass(frozen=True)
class Ran:
    """What a command said."""

    stdout: str
    stderr: str


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    mine = {name: value for name, value in os.environ.items() if not name.startswith("SFM_")}
    return mine | dict(more or {})


class Served:
    """`sfm serve` on free ports, and `sfm` told where it is; without shedding unless it is told, as in support/servers.py."""

    def __init__(self, directory: Path, *options: str, **settings: str) -> None:
        self.directory = directory
        self.data = directory / "data"
        self._ready = directory / "ready.json"
        self._stdout, self._stderr = directory / "stdout.txt", directory / "stderr.txt"
        ports = ("--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
        places = ("--data-dir", str(self.data), "--ready-file", str(self._ready))
        told = {"SFM_SHED_WAIT_MS": "60000", **settings}
        with self._stdout.open("w") as out, self._stderr.open("w") as err:
            self.process = subprocess.Popen(
                [*SFM, "serve", *ports, *places, *options], cwd=directory, env=_environment(told), stdout=out, stderr=err
            )
        self.addresses = self._wait()

    def _wait(self) -> dict[str, str]:
        deadline = time.monotonic() + _WAIT_S
        while not self._ready.exists():
            assert self.process.poll() is None, self.stderr
            assert time.monotonic() < deadline, self.stderr
            time.sleep(0.05)
        addresses: dict[str, str] = json.loads(self._ready.read_text())
        return addresses

    @property
    def stdout(self) -> str:
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    @property
    def environment(self) -> dict[str, str]:
        """What tells a command where the server is."""
        return {"SFM_TARGET": self.addresses["grpc"]}

    def run(self, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        """One command, in the server's directory."""
        return run(*arguments, code=code, cwd=self.directory, env=self.environment)

    def here(self, *arguments: object, code: int = 0) -> Ran:
        """One command, in this process and its directory."""
        return here(*arguments, code=code, env=self.environment)

    def json(self, *arguments: object, code: int = 0) -> Any:
        """The same with --json: what it printed."""
        return json.loads(self.here(*arguments, "--json", code=code).stdout)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(_WAIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
