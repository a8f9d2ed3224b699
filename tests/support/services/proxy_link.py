"""One connection through the fault proxy, and the state of a direction that all its connections share."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

UP: Final = "up"
DOWN: Final = "down"
PATTERN_BYTES_MAX = 256
_CHUNK_BYTES = 1 << 16
_CHUNKS_HELD = 64  # beyond what a network holds, the sender waits
_SIOCOUTQ = 0x5411


@dataclass(eq=False)
class Watch:
    """What to do once certain bytes go by."""

    pattern: bytes
    then: Callable[[], object] | None
    before: bool
    done: threading.Event = field(default_factory=threading.Event)


@dataclass
class Truncation:
    """How many bytes may still pass in a connection that is then reset."""

    left: int
    done: threading.Event = field(default_factory=threading.Event)


@dataclass
class Flow:
    """One direction, of all connections."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    """Closed while it hangs."""
    delay_s: float = 0.0
    truncation: Truncation | None = None
    """For the first connection to send."""
    watches: list[Watch] = field(default_factory=list)
    passed: int = 0
    failed: list[BaseException] = field(default_factory=list)
    """What a `then` has raised."""

    def __post_init__(self) -> None:
        self.restore()

    def restore(self) -> None:
        """As if nothing had been asked of it."""
        self.delay_s, self.truncation = 0.0, None
        self.watches.clear()
        self.gate.set()


class Link:
    """One client's connection, and the one to the server that belongs to it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, client: socket.socket, upstream: tuple[str, int], flows: Mapping[str, Flow]
    ) -> None:
        self.gone = False
        self._loop = loop
        self._upstream = upstream
        self._flows = flows
        self._client = client
        self._server = socket.socket(socket.AF_INET6 if ":" in upstream[0] else socket.AF_INET)
        self.task = loop.create_task(self._run())

    def reset(self) -> None:
        """Both sides learn at once, and what has not been forwarded is lost."""
        if self.gone:
            return
        self.gone = True
        for end in (self._client, self._server):
            self._loop.remove_reader(end)
            self._loop.remove_writer(end)
            reset(end)
        self.task.cancel()

    async def _run(self) -> None:
        """Until both sides have said all they had to say, or one of them breaks, or we do."""
        try:
            await self._carry()
        except* OSError:
            self.reset()
        else:
            self.gone = True
            self._client.close()
            self._server.close()

    async def _carry(self) -> None:
        for end in (self._client, self._server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(self._server, self._upstream)
        except OSError:
            await self._flows[DOWN].gate.wait()
            raise
        up = _Way(self, self._client, self._server, self._flows[UP])
        down = _Way(self, self._server, self._client, self._flows[DOWN])
        up.back, down.back = down, up
        async with asyncio.TaskGroup() as group:
            for way in (up, down):
                group.create_task(way.read())
                group.create_task(way.write())


class _Way:
    """One direction of one connection."""

    back: _Way
    """The other direction."""

    def __init__(self, link: Link, source: socket.socket, target: socket.socket, flow: Flow) -> None:
        self._link, self._source, self._target, self._flow = link, source, target, flow
        self._loop = asyncio.get_running_loop()
        self._held: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(_CHUNKS_HELD)
        self._goes_on = asyncio.Event()  # closed while the other direction acts
        self._goes_on.set()
        self._tail = b""
        self._truncation: Truncation | None = None

    async def read(self) -> None:
        """Takes in what comes, until the end (b"") or a reset (None)."""
        data: bytes | None = b"-"
        while data:
            try:
                data = await self._loop.sock_recv(self._source, _CHUNK_BYTES)
            except OSError:
                data = None
            await self._held.put((self._loop.time() + self._flow.delay_s, data))

    async def write(self) -> None:
        """Hands on what was taken in, when it is due and the gate is open."""
        while True:
            due, data = await self._held.get()
            if (early_s := due - self._loop.time()) > 0:
                await asyncio.sleep(early_s)
            await self._may_go()
            if data is None:
                raise ConnectionResetError
            if not data:
                self._target.shutdown(socket.SHUT_WR)
                return
            await self._forward(memoryview(data))

    async def _forward(self, data: memoryview) -> None:
        while data:
            await self._may_go()
            if self._flow.truncation is not None:
                self._truncation, self._flow.truncation = self._flow.truncation, None
            length, watch = self._until_mark(data)
            if self._truncation is not None and self._truncation.left <= length:
                await self._truncate(data[: self._truncation.left], self._truncation)
            elif watch is not None:
                await self._act(data[:length], watch)
            else:
                await self._send(data[:length])
            data = data[length:]
            if self._truncation is not None:
                self._truncation.left -= length

    async def _may_go(self) -> None:
        await self._flow.gate.wait()
        await self._goes_on.wait()

    def _until_mark(self, data: memoryview) -> tuple[int, Watch | None]:
        """How far to go: to where something is to be done, or to the end."""
        joined = self._tail + data
        nearest, found = len(data), None
        for watch in self._flow.watches:
            at = joined.find(watch.pattern, max(0, len(self._tail) - len(watch.pattern) + 1))
            stop = at + (0 if watch.before else len(watch.pattern)) - len(self._tail)
            if at >= 0 and (stop < nearest or (found is None and stop == nearest)):
                nearest, found = max(0, stop), watch
        return nearest, found

    async def _send(self, data: memoryview) -> None:
        try:
            await self._loop.sock_sendall(self._target, data)
        except OSError:
            await self.back._flow.gate.wait()  # while it is closed, nobody learns of this
            raise
        self._flow.passed += len(data)
        self._tail = (self._tail + data)[-PATTERN_BYTES_MAX:]

    async def _truncate(self, data: memoryview, truncation: Truncation) -> None:
        await self._arrive(data)
        self._link.reset()
        truncation.done.set()
        raise ConnectionAbortedError

    async def _act(self, data: memoryview, watch: Watch) -> None:
        await self._arrive(data)
        if watch in self._flow.watches:  # no other connection was first
            self._flow.watches.remove(watch)
            try:
                if watch.then is not None:
                    watch.then()
            except BaseException as error:
                self._flow.failed.append(error)
            watch.done.set()
        if self._link.gone:
            raise ConnectionAbortedError
        self.back._goes_on.set()

    async def _arrive(self, data: memoryview) -> None:
        """Sends it, and returns when it lies on the other side, where a reset does not take it away; an answer waits."""
        self.back._goes_on.clear()
        await self._send(data)
        while struct.unpack("i", fcntl.ioctl(self._target, _SIOCOUTQ, b"\0" * 4))[0]:  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.001)


def reset(end: socket.socket) -> None:
    """Closes with RST."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
