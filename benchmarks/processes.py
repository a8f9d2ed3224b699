"""Servers as processes of their own, as in production: ours, and the bare one it is compared with."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import bare
from sfm_grpc import allocator

_SERVE = ("-c", "from sfm_grpc.cli import main; main()", "serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")
_STOP_S = 20

PATIENT = {"shed_wait_ms": 5_000}
"""Settings of a server whose calls are timed one by one while others use the cores: it refuses none for having waited."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is up."""

    address: str
    http_address: str = ""


@contextlib.contextmanager
def ours(**settings: object) -> Iterator[Server]:
    """The product, `sfm serve` with its defaults and `settings`, on a fresh store."""
    with scratch_directory() as directory, ours_in(directory, **settings) as server:
        yield server


@contextlib.contextmanager
def ours_in(directory: Path, **settings: object) -> Iterator[Server]:
    """The same on what the directory has."""
    given = {f"SFM_{name.upper()}": str(value) for name, value in settings.items()}
    with _process((*_SERVE, "--data-dir", str(directory)), given) as lines:
        # The first two lines of its output: `gRPC HOST:PORT`, `HTTP HOST:PORT`, maybe more words after them.
        said = dict(next(lines).split()[:2] for _ in range(2))
        yield Server(said["gRPC"], said["HTTP"].removeprefix("http://"))


@contextlib.contextmanager
def bare_server() -> Iterator[Server]:
    """grpc.aio handlers that return or take bytes and do nothing else."""
    with _process(("-m", "benchmarks.processes"), {}) as lines:
        yield Server(next(lines).strip())


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory on the disk that the servers' stores are on: below the working directory, a temporary one may be in memory."""
    place = Path("var")
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=place) as directory:
        yield Path(directory)


def free_port(stack: contextlib.ExitStack) -> int:
    """A port that nobody listens on, kept until the stack is closed."""
    holder = stack.enter_context(socket.socket())
    holder.bind(("127.0.0.1", 0))
    return int(holder.getsockname()[1])


@contextlib.contextmanager
def _process(arguments: Sequence[str], settings: Mapping[str, str]) -> Iterator[Iterator[str]]:
    """A Python process and the lines it writes; it is asked to stop at the end."""
    environment = {**os.environ, "SFM_LOG_LEVEL": "error", "GRPC_VERBOSITY": "ERROR", **settings}
    command = (sys.executable, *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        try:
            yield child.stdout
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()


async def _serve_bare() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    allocator.keep_large_blocks()
    server, port = await bare.started()
    print(f"127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve_bare())
