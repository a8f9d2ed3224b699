"""What a sink of events and an inbox of orders promise. Their driver's errors never leave their folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


# ---- what comes in


class InboxUnavailable(Exception):  # noqa: N818  as SinkUnavailable
    """Nothing comes from it just now, or it does not take what it is told; `str()` says why."""


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody sent."""

    topic: str
    partition: int
    offset: int
    time_us: int | None
    """When it was sent, as it says itself; None: it does not."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class InboxState:
    """How an inbox is."""

    detail: str
    waiting: int
    """Messages that are there and were not taken yet, of the partitions that are this process's; as far as it knows."""


class Inbox(Protocol):
    """Messages that somebody else sends, shared between the processes that ask for them. One at a time: `next` after `done`."""

    name: str

    async def check(self) -> InboxState:
        """Asks it how it is. Raises InboxUnavailable."""

    async def next(self) -> Message | None:
        """The next message, each partition's in their order; None: there was none for a moment. Raises InboxUnavailable.

        What was taken and not `done` comes again: here, or to another process.
        """

    def has(self, message: Message) -> bool:
        """Whether it is still this process's to do; else it comes again, here or elsewhere."""

    async def hold(self, seconds: float) -> None:
        """Waits with a message in hand, however often: what follows it stays where it is. Raises InboxUnavailable."""

    async def refuse(self, message: Message, why: Mapping[str, str]) -> None:
        """Puts it where the refused ones are, as it came and with why; returns when it is there. Raises InboxUnavailable."""

    async def done(self, message: Message) -> None:
        """It need not come again; where that cannot be told (InboxUnavailable) it may, unless a later one's can be."""

    async def close(self) -> None:
        """Lets go; others get what was this process's. Idempotent."""
