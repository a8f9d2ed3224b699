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


def start(directory: Path) -> None:
    """Starts one for each generation that counts in an index's directory. Not for long: `take` them, and `end` the rest."""
    if not _is_free(directory):
        return
    try:
        found = {files.current(directory / name): shape for name, shape in files.shapes(directory).items()}
        for generation, shape in found.items():
            if generation is not None and generation not in _waiting:
                _waiting[generation] = Engine.spawned(generation, *shape)
    except (OSError, IndexUnavailable):
        return


def _is_free(directory: Path) -> bool:
    """There is such a directory, and no other process has it."""
    try:
        lock = os.open(directory / files.LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(lock)


async def take(generation: Path, dimension: int, distance: Distance) -> Engine:
    """The one that was started for a generation, open; else another one. Raises IndexUnavailable, IndexDamaged."""
    engine = _waiting.pop(generation, None)
    if engine is not None:
        try:
            await engine.opened()
        except IndexUnavailable:
            await engine.kill()  # it may have come before somebody else had let go
        else:
            return engine
    return await Engine.start(generation, dimension, distance)


async def end() -> None:
    """Ends those that nobody took."""
    while _waiting:
        _, engine = _waiting.popitem()
        await engine.kill()
