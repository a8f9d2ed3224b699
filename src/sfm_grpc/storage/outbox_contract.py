"""What every engine knows of the outbox beside its events: how far each sink has them, and whose turn it is to send it more.

A sink is where events go, Kafka for one. It has all events up to its position; what comes after that is sent in order, by one
process at a time. Events are kept while a sink lacks them, within a bound.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sfm_grpc.model import Scope

# A sink that nobody has kept for so long holds no events back: it was taken out of the configuration.
SINK_LOST_AFTER_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event in the outbox."""

    event_id: int
    """Rises; never reused."""
    scope: Scope
    topic: str
    version: int
    """Of ρ; of memories the revision that it is about."""
    time_us: int
    payload: Mapping[str, object]
    """Empty when what is stored cannot be read."""


@dataclass(frozen=True, slots=True)
class Tail:
    """A stretch of one tenant's events."""

    events: Sequence[StoredEvent]
    upto: int
    """There is no other event of what was asked for up to this id, and none will appear: the next look goes on after it."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a sink has not got."""

    events: int
    oldest_time_us: int
    """When the first of them was written; 0: there is none."""
    dropped: int
    """How many were taken away before it got them, since there is this sink."""


class OutboxTables(Protocol):
    """Each question is one consistent look. All raise StoreUnavailable and Overloaded as `Store` says."""

    async def tail(self, tenant: str, *, namespace: str, topics: Collection[str], after: int, limit: int) -> Tail:
        """A tenant's events after an id, oldest first. `namespace` empty: of all; no topics named: all."""

    async def keep(self, sink: str) -> None:
        """The sink is in use: what it lacks is held for it. A new one lacks all that there is."""

    async def waits(self, sink: str) -> bool:
        """Whether there is an event that it could be sent now."""

    async def backlog(self, sink: str) -> Backlog:
        """What it lacks, counted: as long as that takes."""

    async def take(self, sink: str, owner: str, *, lasts_s: float) -> int | None:
        """The turn to send it events, for so long; up to which event it has them. None: another owner has the turn."""

    async def advance(self, sink: str, owner: str, event_id: int, *, lasts_s: float) -> bool:
        """It has all events up to this one, and the turn lasts longer; False: it is no longer the owner's."""

    async def release(self, sink: str, owner: str) -> None:
        """The turn is over."""
