"""Questions that many ask at the same time, asked once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

K = TypeVar("K")
T = TypeVar("T")


class SharedQuestions(Generic[K, T]):
    """Who asks before a question is sent shares its answer; who asks while one is under way shares the next one's.

    So every answer is true of a moment after it was asked for, and there is one question at a time for each key.
    """

    def __init__(self, ask: Callable[[K], Awaitable[T]]) -> None:
        self._ask = ask
        self._under_way: set[K] = set()
        self._next: dict[K, asyncio.Future[T]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer(self, key: K) -> T:
        """The answer. Raises what `ask` raises; whoever gives up leaves the others' question alone."""
        if key not in self._under_way:
            return await self._first(key)
        waiting = self._next.get(key)
        if waiting is None:
            waiting = self._next[key] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(waiting)

    async def _first(self, key: K) -> T:
        """Asks at once, for this caller alone: those who come while it is under way came after it was sent."""
        self._under_way.add(key)
        try:
            return await self._ask(key)
        finally:
            if key in self._next:
                task = asyncio.create_task(self._for_those_who_wait(key))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._under_way.discard(key)

    async def _for_those_who_wait(self, key: K) -> None:
        """Asks until nobody waits any more."""
        try:
            while (waiting := self._next.pop(key, None)) is not None:
                await self._settle(key, waiting)
        finally:
            self._under_way.discard(key)

    async def _settle(self, key: K, waiting: asyncio.Future[T]) -> None:
        try:
            answer = await self._ask(key)
        except asyncio.CancelledError:
            waiting.cancel()
            raise
        except Exception as error:
            waiting.set_exception(error)
            waiting.exception()  # those who wait for it are told; there may be nobody any more
        else:
            waiting.set_result(answer)
