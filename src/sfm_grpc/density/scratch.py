"""Square workspaces that are used again: a fresh 8 MiB temporary costs 2000 page faults on every admission."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from sfm_grpc.density.matrix import FloatArray

# What may lie idle in the whole process. A workspace that does not fit is given back to the allocator.
IDLE_BYTES_MAX = 64 * 1024 * 1024

_GAP_NUMBERS = 8

# From 4 MiB on numpy asks for huge pages, and any matrix up to 720×720 finds its workspace in any idle buffer.
_BUFFER_NUMBERS_MIN = 4 * 1024 * 1024 // 8

_lock = threading.Lock()
_idle: list[FloatArray] = []


@contextmanager
def square(n: int) -> Iterator[FloatArray]:
    """An n×n float64 array with arbitrary content, the caller's own until the block ends; its rows lie a cache line apart.

    Without that gap a column of a 256×256 or 1024×1024 matrix falls into two cache sets, and reading it costs half as much again.
    """
    stride = n + _GAP_NUMBERS
    buffer = _borrow(n * stride)
    try:
        yield buffer[: n * stride].reshape(n, stride)[:, :n]
    finally:
        _give_back(buffer)


def idle_bytes() -> int:
    """What lies idle now."""
    with _lock:
        return sum(b.nbytes for b in _idle)


def _borrow(size: int) -> FloatArray:
    with _lock:
        for position in range(len(_idle) - 1, -1, -1):  # the latest is the one that is still in the cache
            if _idle[position].size >= size:
                return _idle.pop(position)
    return np.empty(max(size, _BUFFER_NUMBERS_MIN))


def _give_back(buffer: FloatArray) -> None:
    with _lock:
        _idle.append(buffer)
        while sum(b.nbytes for b in _idle) > IDLE_BYTES_MAX:
            del _idle[0]
