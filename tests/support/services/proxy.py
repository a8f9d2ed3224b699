"""A TCP proxy that fails as networks and servers do, when it is told to."""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit

from tests.support.services import ports
from tests.support.services.proxy_link import DOWN, PATTERN_BYTES_MAX, UP, Flow, Link, Truncation, Watch, reset

Direction = Literal["up", "down"]
"""`up`: from client to server; `down`: what comes back."""
_CALL_S = 60.0


class FaultProxy:
    """Stands on a port of this machine's loopback before a server, in a thread and an event loop of its own.

    Its methods may be called from any thread, from async tests and from its own `then`; when one returns, it is so. A direction
    that is not named is both.
    """

    def __init__(self, upstream_host: str, upstream_port: int) -> None:
        self.upstream = (upstream_host, upstream_port)
        """Where new connections lead; may be changed."""
        self.connections = 0
        """How many have been accepted so far."""
        self._flows = {UP: Flow(), DOWN: Flow()}
        self._links: set[Link] = set()
        self._resets_new = False
        self._listener = ports.bound()
        self._listener.setblocking(False)
        self._listener.listen(128)
        self.port = int(self._listener.getsockname()[1])
        self._loop = asyncio.SelectorEventLoop()
        self._loop.add_reader(self._listener, self._accept)
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"fault-proxy-{self.port}", daemon=True)
        self._thread.start()

    @classmethod
    def to(cls, url: str) -> Self:
        """Before the server that a URL leads to."""
        parts = urlsplit(url)
        assert parts.hostname is not None, f"{url} names no host"
        return cls(parts.hostname, parts.port or (6379 if parts.scheme.startswith("redis") else 5432))

    def url(self, of: str) -> str:
        """The same URL, through the proxy."""
        parts = urlsplit(of)
        who, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{who}{at}127.0.0.1:{self.port}"))

    @property
    def bytes_up(self) -> int:
        """How many bytes were handed to the server."""
        return self._flows[UP].passed

    @property
    def bytes_down(self) -> int:
        """How many bytes were handed to clients."""
        return self._flows[DOWN].passed

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return sum(not link.gone for link in self._links)

    def drop(self) -> None:
        """Resets every connection there is; new ones are welcome."""
        self._call(self._drop)

    def cut(self, *, refuse: bool = True) -> None:
        """Resets every connection; until `restore`, new ones are refused, or else accepted and reset at once."""
        self._call(lambda: self._cut(refuse))

    def hang(self, direction: Direction | None = None) -> None:
        """Forwards nothing, not even that a side has gone; keeps connections, accepts new. `restore` forwards what waited."""
        for flow in self._of(direction):
            self._call(flow.gate.clear)

    def delay(self, seconds: float, direction: Direction | None = None) -> None:
        """Everything that comes from now on arrives so much later, in order; 0 ends it."""
        for flow in self._of(direction):
            flow.delay_s = seconds

    def truncate(self, after_bytes: int, direction: Direction) -> threading.Event:
        """The first connection to send that way gets exactly so many bytes through, and is reset; the event says when it was.

        With 0 it is reset when it sends. Other connections are not touched. The bytes have arrived before the reset does.
        """
        truncation = Truncation(after_bytes)
        self._flows[direction].truncation = truncation
        return truncation.done

    def when(
        self, pattern: bytes, then: Callable[[], object] | None = None, *, direction: Direction = UP, before: bool = False
    ) -> threading.Event:
        """Calls `then` once, when these bytes go by in a connection: after the last of them has arrived, or `before` any is sent.

        No answer passes meanwhile, so that the proxy's own methods, or `server.kill`, act exactly there; then the event is set.
        (`before` cannot take back the first bytes of a pattern that comes in two pieces.)
        """
        assert 0 < len(pattern) <= PATTERN_BYTES_MAX
        watch = Watch(pattern, then, before)
        self._call(lambda: self._flows[direction].watches.append(watch))
        return watch.done

    def restore(self) -> None:
        """All is well again: what was held goes on, connections are accepted, nothing is awaited any more."""
        self._call(self._restore)

    def close(self) -> None:
        """Ends every connection. Raises what a `then` has raised."""
        self._call(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._listener.close()
        failed = [error for flow in self._flows.values() for error in flow.failed]
        if failed:
            raise failed[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # In the loop's thread from here on.

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self.connections += 1
        if self._resets_new:
            reset(client)
            return
        link = Link(self._loop, client, self.upstream, self._flows)
        self._links.add(link)
        link.task.add_done_callback(lambda _: self._links.discard(link))

    def _drop(self) -> None:
        for link in self._links:
            link.reset()

    def _cut(self, refuse: bool) -> None:
        self._resets_new = True
        if refuse and self._loop.remove_reader(self._listener):
            self._listener.shutdown(socket.SHUT_RDWR)  # on Linux: stays bound to its port, and listens no longer
        self._drop()

    def _restore(self) -> None:
        self._resets_new = False
        self._listener.listen(128)
        self._loop.add_reader(self._listener, self._accept)
        for flow in self._flows.values():
            flow.restore()

    async def _end(self) -> None:
        self._cut(refuse=True)
        await asyncio.gather(*(link.task for link in self._links), return_exceptions=True)

    def _of(self, direction: Direction | None) -> list[Flow]:
        return [flow for name, flow in self._flows.items() if direction in (None, name)]

    def _call(self, what: Callable[[], object]) -> None:
        """Does it between two steps of the loop; returns when it is done."""
        if threading.current_thread() is self._thread:
            what()
            return

        async def run() -> None:
            if inspect.isawaitable(done := what()):
                await done

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(_CALL_S)
