"""What a sink of events promises. Its driver's errors never leave its folder: what comes out is SinkUnavailable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sfm_grpc.storage.outbox_contract import StoredEvent


class SinkUnavailable(Exception):  # noqa: N818  as IndexUnavailable
    """It takes no events just now; `str()` says why."""

    def __init__(self, problem: str, taken: int = 0) -> None:
        """`taken`: it has so many of what was sent, the first ones."""
        super().__init__(problem)
        self.taken = taken


class EventSink(Protocol):
    """Takes events, in order."""

    name: str
    """By which the store knows how far it is."""

    async def check(self) -> str:
        """Asks it how it is. Returns what it is; raises SinkUnavailable."""

    async def send(self, events: Sequence[StoredEvent]) -> None:
        """Returns when it has all of them, however long that takes.

        Of each topic and namespace it has them in order, whatever is lost and sent again on the way. Where this raises
        SinkUnavailable or is cancelled, it may have the first few of each; whoever sends the same again repeats these and leaves
        out none.
        """

    async def close(self) -> None:
        """Lets go; what was not delivered is given up. Idempotent."""
