"""Engines that are started before the rest of us is imported: to open 100 000 points takes as long as that.

Whatever is wrong with a directory, or with an engine in it, is found by whoever opens it: here it is passed over.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sfm_grpc.errors import IndexUnavailable
from sfm_grpc.model import Distance
from sfm_grpc.storage.vectors.embedded import files
from sfm_grpc.storage.vectors.embedded.engine import Engine

_waiting: dict[Path, Engine] = {}
"""By generation: those that nobody has taken yet."""
_locks: dict[Path, int] = {}
"""By an index's directory: its lock, until the index takes it over."""


def start(directory: Path) -> None:
    """Starts one for each generation that counts in an index's directory, and locks that: `take` them, and `end` the rest."""
    if directory in _locks or (lock := _locked(directory)) < 0:
        return
    _locks[directory] = lock
    try:
        found = {files.current(directory / name): shape for name, shape in files.shapes(directory).items()}
        for generation, shape in found.items():
            if generation is not None:
                _waiting[generation] = Engine.spawned(generation, *shape)
    except (OSError, IndexUnavailable):
        return


def _locked(directory: Path) -> int:
    """The lock of a directory; -1: there is none, or another process has it."""
    try:
        lock = os.open(directory / files.LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return -1
    return lock


def taken_lock(directory: Path) -> int:
    """The lock of a directory, which is the caller's from now on; -1: it was not locked here."""
    return _locks.pop(directory, -1)


async def take(generation: Path, dimension: int, distance: Distance) -> Engine:
    """The one that was started for a generation, open; else another one. Raises IndexUnavailable, IndexDamaged."""
    engine = _waiting.pop(generation, None)
    if engine is not None:
        try:
            await engine.opened()
        except BaseException as error:
            await engine.kill()
            if not isinstance(error, IndexUnavailable):
                raise
        else:
            return engine
    return await Engine.start(generation, dimension, distance)


async def end() -> None:
    """Ends those that nobody took."""
    while _waiting:
        _, engine = _waiting.popitem()
        await engine.kill()
    while _locks:
        _, lock = _locks.popitem()
        os.close(lock)
