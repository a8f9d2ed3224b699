"""What a server process of the tests runs: the same as `sfm serve`, told its settings by its parent."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection

import uvloop

from sfm_grpc.app import App, stop_signals
from sfm_grpc.settings import ConfigError, load


def run(parent: Connection, log: str, told: Mapping[str, object], file_bytes_max: int | None) -> None:
    """Serves until SIGTERM, then drains. Sends its two addresses when it serves; standard error goes to `log`."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, force=True)
    for name in [n for n in os.environ if n.startswith("SFM_")]:
        del os.environ[name]
    if file_bytes_max is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        uvloop.run(_serve(parent, told))
    except ConfigError as error:
        sys.exit(str(error))


async def _serve(parent: Connection, told: Mapping[str, object]) -> None:
    async with stop_signals() as stop, App(load(told)) as app:
        await asyncio.to_thread(parent.send, (app.address, app.http_address))
        await stop.wait()
        await app.drain()
