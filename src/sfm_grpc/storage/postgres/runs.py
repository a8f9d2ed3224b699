"""How work comes to a connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from psycopg import AsyncConnection

_T = TypeVar("_T")


class Runs(Protocol):
    """Runs work on a connection that nobody else uses meanwhile."""

    async def __call__(self, work: Callable[[AsyncConnection], Awaitable[_T]], /) -> _T:
        """What `work` returns."""
