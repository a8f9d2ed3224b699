"""A server process for tests: `python -m tests.support.runner`.

Reads its settings (one line of JSON) from standard input, after everything is imported; prints its addresses as one line of JSON;
drains on SIGTERM. `file_bytes_max` among the settings is the operating system's bound on the size of a file.
"""

from __future__ import annotations

import json
import logging
import resource
import sys

import uvloop

from sfm_grpc.app import App, stop_signals
from sfm_grpc.settings import ConfigError, load


async def serve(told: dict[str, object]) -> None:
    async with stop_signals() as stop, App(load(told)) as app:
        print(json.dumps({"grpc": app.address, "http": app.http_address}), flush=True)
        await stop.wait()
        await app.drain()


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    told = json.loads(sys.stdin.readline())
    file_bytes_max = told.pop("file_bytes_max", None)
    if file_bytes_max is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        uvloop.run(serve(told))
    except ConfigError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
