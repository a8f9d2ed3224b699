"""The connection of the scripts: one, shared by all who ask, each answer as soon as it comes.

A read waits for one small script and for nothing else, so what stands around that script is most of its time. redis-py connects,
speaks TLS, authenticates and finds the master; then its connection is used without the rest of it, which takes longer than Redis
does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, TypeAlias

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sfm_grpc.storage.redis.connection import Client

# A loop that is late finds the time run out before it looks at what has arrived: it looks once more.
_GRACE_S = 0.005
_ERRORS = {"NOSCRIPT": NoScriptError, "OOM": OutOfMemoryError, "READONLY": ReadOnlyError}


Command: TypeAlias = tuple[object, ...]


class Caller(Protocol):
    """Who sends commands."""

    async def call(self, timeout_s: float, *command: object) -> Any:
        """What Redis answers. Raises redis.RedisError; its TimeoutError when it does not, in time."""

    async def calls(self, timeout_s: float, commands: Sequence[Command]) -> list[Any]:
        """What it answers to several small ones, sent in one go. Raises as `call`."""

    def close(self) -> None:
        """Hangs up."""


class ShardedLine:
    """The same through redis-py's own client: a cluster's slots move from node to node."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def call(self, timeout_s: float, *command: object) -> Any:
        """See `Caller`."""
        async with _bounded(timeout_s):
            return await self._client.execute_command(*command)

    async def calls(self, timeout_s: float, commands: Sequence[Command]) -> list[Any]:
        """See `Caller`."""
        return await in_a_pipeline(self._client, timeout_s, commands)

    def close(self) -> None:
        """The client is closed by its owner."""


class Line:
    """One connection, made when it is needed, and again when it is lost."""

    def __init__(self, client: Client) -> None:
        """`client` says how to connect, and is not used for anything else here."""
        self._pool = client.connection_pool
        self._connecting: asyncio.Task[_Wire] | None = None
        self._wire: _Wire | None = None

    async def call(self, timeout_s: float, *command: object) -> Any:
        """See `Caller`."""
        wire = self._wire
        if wire is None or wire.lost:
            wire = await self._ready(timeout_s)
        return await wire.ask(command, timeout_s)

    async def calls(self, timeout_s: float, commands: Sequence[Command]) -> list[Any]:
        """See `Caller`."""
        wire = self._wire
        if wire is None or wire.lost:
            wire = await self._ready(timeout_s)
        return await wire.ask_all(commands, timeout_s)

    async def _ready(self, timeout_s: float) -> _Wire:
        async with _bounded(timeout_s):
            return await self._connected()

    async def _connected(self) -> _Wire:
        """Connects, once for all who wait; whoever gives up leaves it alone."""
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._tried)
        return await asyncio.shield(self._connecting)

    async def _connect(self) -> _Wire:
        connection: Any = self._pool.make_connection()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        # From here on it is ours: it is not given back, and redis-py must not read from it.
        writer, connection._writer, connection._reader = connection._writer, None, None
        self._wire = _Wire(writer)
        return self._wire

    def _tried(self, task: asyncio.Task[_Wire]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # those who wait are told

    def close(self) -> None:
        """See `Caller`."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._wire is not None:
            self._wire.hang_up(RedisConnectionError("closed"))


class _Wire(asyncio.Protocol):
    """What goes over a connection: answers come in the order of the questions."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer  # kept: it closes the transport when it goes
        self._transport = writer.transport
        self._replies = hiredis.Reader()
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._loop = asyncio.get_running_loop()
        self._hung_up = False
        self._transport.set_protocol(self)

    @property
    def lost(self) -> bool:
        """Nothing more can be asked."""
        return self._hung_up or self._transport.is_closing()

    async def ask(self, command: Command, timeout_s: float) -> Any:
        """What Redis answers. Raises redis.RedisError."""
        answer = self._awaited()
        self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]
        return await self._said(answer, timeout_s)

    async def ask_all(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """The same of several, in one write."""
        answers = [self._awaited() for _ in commands]
        self._transport.write(b"".join(hiredis.pack_command(command) for command in commands))  # type: ignore[arg-type]
        last = await self._said(answers[-1], timeout_s)  # they come in order: with the last all are there
        return [*[await self._said(answer, timeout_s) for answer in answers[:-1]], last]

    def _awaited(self) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._asked.append(answer)
        return answer

    async def _said(self, answer: asyncio.Future[Any], timeout_s: float) -> Any:
        due = None if answer.done() else self._loop.call_later(timeout_s, self._late, answer, timeout_s, True)
        try:
            said = await answer
        finally:
            if due is not None:
                due.cancel()
        if isinstance(said, hiredis.ReplyError):
            raise self._refused(str(said))
        return said

    def _refused(self, text: str) -> ResponseError:
        kind = _ERRORS.get(text.partition(" ")[0], ResponseError)
        error: ResponseError = kind(text)
        if kind is ReadOnlyError:
            self.hang_up(RedisConnectionError(text))  # the master is elsewhere: whoever connects next asks where
        return error

    def _late(self, answer: asyncio.Future[Any], timeout_s: float, first: bool) -> None:
        if answer.done():
            return
        if first:
            self._loop.call_later(_GRACE_S, self._late, answer, timeout_s, False)
            return
        # Whoever else waits has no better chances, and what comes late must not be taken for an answer to the next question.
        self.hang_up(RedisTimeoutError(_late(timeout_s)))

    def hang_up(self, error: Exception) -> None:
        """Ends the connection, and tells all who wait."""
        if not self._hung_up:
            self._hung_up = True
            self._transport.abort()
        while self._asked:
            answer = self._asked.popleft()
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # whoever waits for it is told; of several that were asked together, one is waited for

    # ---- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Answers have come."""
        self._replies.feed(data)
        while (said := self._replies.gets()) is not False:
            if not self._asked:
                return self.hang_up(RedisConnectionError("an answer that nobody asked for"))
            answer = self._asked.popleft()
            if not answer.done():  # its caller gave up
                answer.set_result(said)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        """Redis hung up, or we did."""
        self._hung_up = True
        self.hang_up(RedisConnectionError(str(exc) if exc else "Redis closed the connection"))


async def in_a_pipeline(client: Client, timeout_s: float, commands: Sequence[Command]) -> list[Any]:
    """Several commands through redis-py's own client. Raises as `Caller.call`."""
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    async with _bounded(timeout_s):
        done: list[Any] = await pipeline.execute()
        return done


@contextlib.asynccontextmanager
async def _bounded(timeout_s: float) -> AsyncIterator[None]:
    """Bounds what redis-py does in time, and makes redis.RedisError of what it lets through."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise RedisTimeoutError(_late(timeout_s)) from error
    except RuntimeError as error:  # uvloop's, of a connection that was closed behind redis-py's back
        raise RedisConnectionError(str(error)) from error


def _late(timeout_s: float) -> str:
    return f"no answer within {timeout_s * 1000:.3g} ms"
