"""uvicorn inside the event loop that gRPC runs on."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import uvicorn
from starlette.applications import Starlette

from sfm_grpc.settings import split_address


class _Quiet(uvicorn.Server):
    """The process's signals are the composition root's business."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


class HttpServer:
    """Listens from `start` to `stop`."""

    def __init__(self, app: Starlette, address: str) -> None:
        self._address = address
        self._app = app
        self._server: _Quiet | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Opens the port; returns the address. Raises OSError with a sentence."""
        host, port = split_address(self._address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            raise OSError(f"SFM_HTTP_LISTEN: {self._address} cannot be listened on: {error.strerror}") from error
        config = uvicorn.Config(self._app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=2)
        self._server = _Quiet(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started and not self._serving.done():  # noqa: ASYNC110  uvicorn offers no event
            await asyncio.sleep(0.005)
        shown = f"[{host}]" if ":" in host else host
        return f"{shown}:{listener.getsockname()[1]}"

    async def stop(self) -> None:
        """Closes the port. Idempotent."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
            self._server = self._serving = None
