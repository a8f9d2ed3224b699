"""How work comes to a connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Protocol, TypeVar

_T = TypeVar("_T")


class Runs(Protocol):
    """Runs work on a connection, on the thread that it is for."""

    async def __call__(self, work: Callable[[sqlite3.Connection], _T], /) -> _T:
        """What `work` returns."""
