"""An engine's process as we see it: started, asked, and gone when it is closed or when we are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import orjson

from sfm_grpc.errors import IndexUnavailable
from sfm_grpc.model import Distance
from sfm_grpc.storage.vectors.contract import IndexDamaged
from sfm_grpc.storage.vectors.embedded import frames
from sfm_grpc.storage.vectors.embedded.frames import Frame, Words

_PROCESS = "sfm_grpc.storage.vectors.embedded.process"
# How long one may need that was told to close: it flushes.
_CLOSE_S = 60.0
# Another process of ours that was killed may take this long to be gone with its locks.
_LOCKED_S = 5.0

_LOCKED = "WouldBlock"
_OPENING = 0
"""The number of the answer that it gives unasked."""
_OPEN: Words = {"do": "open"}
_HURT = {signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT, signal.SIGILL}
"""What one ends with that opens files which are not what they should be."""
_FULL = "os error 28"
_FULL_BYTES = 16 << 20
"""So little room on a disk is none: files grow by as much."""
_PROBLEMS = {
    _FULL: "the disk is full; free some space",
    "os error 122": "the disk quota is used up; free some space",
    "os error 13": "this user may not use its files",
    "os error 30": "the file system is read-only",
    "os error 24": "too many files are open; raise the limit (ulimit -n)",
    "os error 12": "memory ran out",
    "os error 5": "the disk reports an error",
    "os error 27": "a file would become larger than this user may have it",
    _LOCKED: "another process has its files open; only one may",
}
"""What the engine's errors contain where they do not mean that the files are damaged."""


class Engine:
    """A running engine with a generation open. Any number of questions may be under way."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes], connection: socket.socket, lifeline: int) -> None:
        self.directory = directory
        self.points = 0
        self.indexed = 0
        """How many of its points its graphs knew of when it was opened."""
        self._process = process
        self._connection = connection
        self._lifeline = lifeline
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._hearing: asyncio.Task[None] | None = None
        self._number = _OPENING
        self._asked: dict[int, tuple[Words, asyncio.Future[Words]]] = {}
        self._problem = ""
        """Why it can be asked no more; "": it can."""

    @classmethod
    async def start(cls, directory: Path, dimension: int, distance: Distance, *, create: bool = False) -> Engine:
        """Opens the generation that lies there, or makes it. Raises IndexUnavailable, IndexDamaged."""
        end = asyncio.get_running_loop().time() + _LOCKED_S
        while True:
            engine = cls.spawned(directory, dimension, distance, create=create)
            try:
                await engine.opened()
            except BaseException as error:
                await engine.kill()
                locked = isinstance(error, IndexUnavailable) and _PROBLEMS[_LOCKED] in error.problem
                if not locked or asyncio.get_running_loop().time() > end:
                    raise
                await asyncio.sleep(0.1)
            else:
                return engine

    @classmethod
    def spawned(cls, directory: Path, dimension: int, distance: Distance, *, create: bool = False) -> Engine:
        """A process that opens the generation, or makes it: in two milliseconds, to be `opened`. Raises IndexUnavailable."""
        ours, theirs = socket.socketpair()
        theirs_end, lifeline = os.pipe()
        told = {
            "socket": theirs.fileno(),
            "parent": theirs_end,
            "directory": str(directory),
            "dimension": dimension,
            "distance": int(distance),
            "create": create,
            # One core is left to those who search, and to everything else.
            "threads": max(1, (os.cpu_count() or 1) - 1),
        }
        try:
            with theirs:
                process = subprocess.Popen(  # noqa: S603  our own module, told by us
                    [sys.executable, "-P", "-m", _PROCESS, orjson.dumps(told).decode()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), theirs_end),
                )
        except OSError as error:
            ours.close()
            os.close(lifeline)
            raise IndexUnavailable(problem=f"its engine's process cannot be started: {error.strerror}") from error
        finally:
            os.close(theirs_end)
        ours.setblocking(False)
        return cls(directory, process, ours, lifeline)

    async def opened(self) -> None:
        """Waits until it can be asked. Raises IndexUnavailable, IndexDamaged."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._connection)
        opened: asyncio.Future[Words] = asyncio.get_running_loop().create_future()
        self._asked[_OPENING] = _OPEN, opened
        self._hearing = asyncio.create_task(self._hear())
        try:
            words = await opened
        finally:
            del self._asked[_OPENING]
        if problem := words.get("problem"):
            raise self._translated(problem, _OPEN)
        self.points, self.indexed = words["points"], words["indexed"]

    # ---- asking

    @property
    def runs(self) -> bool:
        """It can be asked."""
        return not self._problem

    async def ask(self, words: Words, numbers: bytes | memoryview = b"") -> Words:
        """What it answers. Raises IndexUnavailable; whether a change was done is then not known."""
        if self._problem or self._writer is None:
            raise IndexUnavailable(problem=self._problem)
        self._number += 1
        number = self._number
        answer: asyncio.Future[Words] = asyncio.get_running_loop().create_future()
        self._asked[number] = words, answer
        try:
            self._writer.write(Frame(number, words, numbers).packed())
            with contextlib.suppress(ConnectionError):  # whoever hears finds out, too
                await self._writer.drain()
            told = await answer
        finally:
            self._asked.pop(number, None)
        if problem := told.get("problem"):
            raise self._translated(problem, words)
        return told

    async def _hear(self) -> None:
        """Hands each answer to whoever waits for it, until the end."""
        assert self._reader is not None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                number, *sizes = frames.HEAD.unpack(await self._reader.readexactly(frames.HEAD.size))
                words = orjson.loads(await self._reader.readexactly(sum(sizes)))
                _, waiting = self._asked.get(number, (None, None))
                if waiting is not None and not waiting.done():
                    waiting.set_result(words)
        code = await asyncio.to_thread(self._process.wait)
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        self._problem = f"its engine's process ended with {how}; it is started again when it is asked next"
        full = await asyncio.to_thread(_is_full, self.directory)
        for words, waiting in self._asked.values():
            if waiting.done():
                continue
            if full:
                waiting.set_exception(IndexUnavailable(problem=f"{self.directory}: {_PROBLEMS[_FULL]}"))
            elif -code in _HURT and (words is _OPEN or words["do"] in frames.QUESTIONS):
                waiting.set_exception(IndexDamaged(problem=f"{self.directory} cannot be read ({how})"))
            else:
                waiting.set_exception(IndexUnavailable(problem=self._problem))

    def _translated(self, problem: str, asked: Words) -> IndexUnavailable:
        """The engine's error as ours."""
        known = next((text for part, text in _PROBLEMS.items() if re.search(rf"\b{part}\b", problem)), None)
        if known is not None:
            return IndexUnavailable(problem=f"{self.directory}: {known} ({problem})")
        if asked is _OPEN or (asked["do"] in frames.QUESTIONS and problem.startswith(frames.BROKEN)):
            return IndexDamaged(problem=f"{self.directory} cannot be read ({problem})")
        return IndexUnavailable(problem=f"{self.directory}: {problem}")

    # ---- ending

    async def close(self) -> None:
        """Lets it finish what it was asked, and flush."""
        with contextlib.suppress(IndexUnavailable, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self.ask({"do": "close"})
                await asyncio.to_thread(self._process.wait)
        await self.kill()

    async def kill(self) -> None:
        """Ends it at once; what it has acknowledged is kept."""
        self._process.kill()
        await (self._hearing if self._hearing is not None else asyncio.to_thread(self._process.wait))
        if self._writer is not None:
            self._writer.close()
        else:
            self._connection.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def _is_full(directory: Path) -> bool:
    """The engine writes through maps: where the disk is full it gets no error, but is ended."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(directory).free < _FULL_BYTES
    return False
