"""All points of a geometry: the generation that is served, and the next one while its graphs are built.

Building graphs takes the engine from everything else, for minutes. So it is done in a second process, on a copy: the copy is made
while questions are answered, and while it is optimized the first process goes on with both, writing each change into the copy's
tail as well. When the copy has caught up, changes wait for a moment, the copy counts, and its process answers from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sfm_grpc.errors import IndexUnavailable
from sfm_grpc.model import Distance
from sfm_grpc.storage.finishing import finished
from sfm_grpc.storage.vectors.contract import IndexDamaged
from sfm_grpc.storage.vectors.embedded import early, files
from sfm_grpc.storage.vectors.embedded.engine import Engine
from sfm_grpc.storage.vectors.embedded.frames import Words

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# Where there are graphs already, a tenth of what is in them is worth building for.
_PENDING_PART = 10
# It waits for a pause in the changes, for a while: who feeds an index anew wants one graph at the end, and not ten.
_PAUSE_S, _PATIENCE_S = 1.0, 30.0
# What failed is not tried again at once.
_RETRY_S = 30.0
# A tail this short is done while changes wait.
_CAUGHT_UP_BYTES = 1 << 20
_ROUNDS_MAX = 8
# What could not be started is not started again at once.
_RESTART_S = 1.0


class Geometry:
    """The points of one dimension and distance, in a directory of their own."""

    def __init__(self, directory: Path, dimension: int, distance: Distance, *, graph_points_min: int) -> None:
        self._directory = directory
        self._shape = (dimension, distance)
        self._graph_points_min = graph_points_min
        self._engine: Engine | None = None
        self._moving: asyncio.Task[None] | None = None
        """It is started, or its files are removed."""
        self._failed: tuple[float, IndexUnavailable] | None = None
        """When it could last not be started, and why."""
        self._passing = asyncio.Event()
        """Changes may pass; they wait while generations change places."""
        self._passing.set()
        self._pending = 0
        """Points that were changed since graphs were built."""
        self._changed_at = 0.0
        self._build_after = 0.0
        self._building: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def is_there(self) -> bool:
        """Something was once kept of it."""
        return self._engine is not None or files.has_current(self._directory)

    # ---- asking

    async def ask(self, words: Words, numbers: bytes | memoryview = b"") -> Words:
        """A question to the generation that counts. Raises IndexUnavailable, IndexDamaged."""
        return await self._told(words, numbers)

    async def change(self, words: Words, numbers: bytes = b"", *, points: int) -> None:
        """A change to it, of so many points. Durable when this returns."""
        await self._told(words, numbers, changes=True)
        self._pending += points
        self._changed_at = _now()
        self._build_if_due()

    async def _told(self, words: Words, numbers: bytes | memoryview, *, changes: bool = False) -> Words:
        """What the engine answers; another one, if it dies over it: whatever it was, it may be done twice."""
        try:
            for last in (False, True):
                engine = await self._served()
                while changes and not self._passing.is_set():
                    await self._passing.wait()
                    engine = await self._served()
                try:
                    return await engine.ask(words, numbers)
                except IndexUnavailable:
                    if last or engine.runs:
                        raise
        except IndexDamaged as error:
            error.geometry = self._shape
            raise
        raise AssertionError("the last answer is told or raised")

    async def _served(self) -> Engine:
        """The engine that answers, started where it does not run."""
        while self._engine is None or not self._engine.runs:
            if self._closed:
                raise IndexUnavailable(problem=f"{self._directory} is closed")
            if self._moving is None or self._moving.done():
                if self._failed is not None and _now() - self._failed[0] < _RESTART_S:
                    raise type(self._failed[1])(problem=self._failed[1].problem)
                self._moving = asyncio.create_task(self._start())
                self._moving.add_done_callback(_seen)
            await asyncio.shield(self._moving)  # for all who wait, whoever gives up
        return self._engine

    async def _start(self) -> None:
        try:
            await self._stop()
            generation = await _filed(self._directory, self._found)
            if generation is not None:
                engine = await early.take(generation, *self._shape)
            else:
                engine = await Engine.start(files.following(None, self._directory), *self._shape, create=True)
            if generation is None:
                try:
                    await _filed(self._directory, files.mark, engine.directory)
                except BaseException:
                    await engine.kill()
                    raise
        except IndexUnavailable as error:
            self._failed = (_now(), error)
            raise
        self._engine = engine
        self._pending = engine.points - engine.indexed
        self._build_if_due()

    def _found(self) -> Path | None:
        """The generation that counts, alone."""
        self._directory.mkdir(parents=True, exist_ok=True)
        generation = files.current(self._directory)
        files.clear(self._directory, generation)
        return generation

    # ---- ending

    async def close(self) -> None:
        """Finishes what is under way, flushes, and lets go, for good."""
        self._closed = True
        await self._settled()
        await self._stop(gently=True)

    async def discard(self) -> None:
        """Removes all of it, readable or not; who asks meanwhile waits."""
        await self._settled()
        self._moving = asyncio.create_task(self._remove())
        self._moving.add_done_callback(_seen)
        await asyncio.shield(self._moving)

    async def _settled(self) -> None:
        while self._moving is not None and not self._moving.done():
            await asyncio.wait([self._moving])

    async def _remove(self) -> None:
        await self._stop()
        await _filed(self._directory, files.discard, self._directory)
        self._failed = None

    async def _stop(self, *, gently: bool = False) -> None:
        """Ends the processes."""
        if self._building is not None:
            self._building.cancel()
            await asyncio.wait([self._building])
        engine, self._engine = self._engine, None
        if engine is not None:
            await (engine.close() if gently else engine.kill())

    # ---- building

    def _build_if_due(self) -> None:
        if self._engine is None or self._building is not None or _now() < self._build_after:
            return
        if self._pending >= max(self._graph_points_min, self._engine.indexed // _PENDING_PART):
            self._building = asyncio.create_task(self._build(self._engine))

    async def _build(self, live: Engine) -> None:
        """Has a copy optimized, and puts it in the place of what is served. What fails is logged, and tried again later."""
        fresh: Engine | None = None
        before = self._pending
        try:
            await self._pause()
            before, self._pending = self._pending, 0
            target = files.following(live.directory, self._directory)
            await live.ask({"do": "copy", "to": str(target)})
            fresh = await Engine.start(target, *self._shape)
            fresh.indexed = (await fresh.ask({"do": "build"}))["indexed"]
            await self._take_over(live, fresh)
        except IndexUnavailable as error:
            self._pending += before
            self._build_after = _now() + _RETRY_S
            _log.warning("%s: building graphs failed, searches go on without: %s", self._directory, error.problem)
        finally:
            await finished(self._tidy(live, fresh))
        self._build_if_due()

    async def _pause(self) -> None:
        end = _now() + _PATIENCE_S
        while (rest_s := min(end, self._changed_at + _PAUSE_S) - _now()) > 0:  # noqa: ASYNC110  until nothing comes
            await asyncio.sleep(rest_s)

    async def _take_over(self, live: Engine, fresh: Engine) -> None:
        """Lets the fresh one catch up, and count. Changes wait for the last of it."""
        place = 0
        for _ in range(_ROUNDS_MAX):
            start, place = place, (await fresh.ask({"do": "catch_up", "from": place}))["place"]
            if place - start < _CAUGHT_UP_BYTES:
                break
        self._passing.clear()
        length = (await live.ask({"do": "end_tail"}))["length"]  # answered when the changes before it are done
        place = (await fresh.ask({"do": "catch_up", "from": place}))["place"]
        if place != length:
            raise IndexUnavailable(problem="what was changed meanwhile could not be kept for it")
        await fresh.ask({"do": "flush"})
        await finished(_filed(self._directory, files.mark, fresh.directory))
        self._engine = fresh

    async def _tidy(self, live: Engine, fresh: Engine | None) -> None:
        """Ends the process that does not count, and removes what it had."""
        try:
            counts = await asyncio.to_thread(files.current, self._directory)
        except (IndexUnavailable, OSError):
            counts = None
        if self._engine is not None and self._engine.directory != counts:
            self._engine = None  # the other one was marked, and then something failed: whoever asks next starts that one
        self._passing.set()
        for engine in (live, fresh):
            if engine is not None and engine is not self._engine:
                await engine.close()
        if self._engine is live:
            with contextlib.suppress(IndexUnavailable):
                await live.ask({"do": "end_tail"})
        if counts is not None:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(files.clear, self._directory, counts)
        self._building = None


def _seen(task: asyncio.Task[None]) -> None:
    """What it failed with is told to those who wait; nobody may be left of them."""
    if not task.cancelled():
        task.exception()


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _filed(directory: Path, work: Callable[..., _T], *arguments: Path) -> _T:
    """Work on files, off the loop. Raises IndexUnavailable."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except OSError as error:
        raise IndexUnavailable(problem=f"{directory}: {error.strerror} ({error.filename})") from error
