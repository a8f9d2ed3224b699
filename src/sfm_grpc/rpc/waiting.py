"""How long calls wait for their turn, and whether that is a hiccup or more than the server can do.

grpc.aio takes calls over one by one, so those that are too many wait inside gRPC, where a handler's clock does not see them: a
server whose handlers take 0.2 ms answered after 300 ms. channelz (gRFC A14) counts the calls that gRPC has received; less those
that were taken over, they are the ones that wait.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)

# Counted as waiting for longer than this, a call is not there any more: gRPC gave it up, and did not say so.
_LOST_S = 10.0


class Lateness:
    """Whether lateness lasts: the smallest of `interval_s` is over `target_s` (as in CoDel, RFC 8289), until one is not.

    One hiccup, however long, is not lasting: what follows it is on time again.
    """

    def __init__(self, target_s: float, interval_s: float) -> None:
        self._target_s = target_s
        self._interval_s = interval_s
        self._over_since: float | None = None
        self.lasting = False

    def note(self, late_s: float, now: float) -> None:
        """Takes a measurement, made at `now` (seconds of a steady clock)."""
        if late_s <= self._target_s:
            self._over_since, self.lasting = None, False
        elif self._over_since is None:
            self._over_since = now
        elif now - self._over_since >= self._interval_s:
            self.lasting = True


class Queue:
    """The calls that were received and not yet taken over, first in, first out; known by two counts."""

    def __init__(self, received: Callable[[], int]) -> None:
        self._received = received
        self._seen: deque[tuple[float, int]] = deque()
        """When was looked, and how many had been received by then; those at which all had been taken over are gone."""
        self._lost = 0

    def none(self) -> float:
        """For whoever knows, without looking, that no call waits: 0."""
        self._seen.clear()
        return 0.0

    def oldest_s(self, taken: int, now: float) -> float:
        """How long the oldest call has waited when `taken` were taken over so far; right within the time between two looks."""
        self._seen.append((now, self._received() - self._lost))
        while self._seen and self._seen[0][1] <= taken:
            self._seen.popleft()
        if not self._seen:
            return 0.0
        since, received = self._seen[0]
        if now - since > _LOST_S:
            self._lost += received - taken
            return self.none()
        return now - since


def received_by_newest_server() -> Callable[[], int]:
    """Counts the calls that the server made last in this process has received; ask right after it was made.

    It must have the option `grpc.enable_channelz`. A count takes 0.15 ms. Where gRPC does not count (any more), 0: what waits
    inside it is not seen then, and calls are shed for the loop's own lateness only.
    """
    try:
        from grpc._cython import cygrpc  # type: ignore[attr-defined]  # as grpcio-channelz does; it is in no stubs

        return _received(cygrpc)
    except (ImportError, AttributeError, KeyError, ValueError):
        _log.warning("gRPC does not say how many calls wait inside it")
        return lambda: 0


def _received(cygrpc: Any) -> Callable[[], int]:
    server_id, more = 0, True
    while more:
        page = json.loads(cygrpc.channelz_get_servers(server_id + 1))
        server_id = max([server_id, *(int(s["ref"]["serverId"]) for s in page.get("server", ()))])
        more = not page.get("end")
    return lambda: int(json.loads(cygrpc.channelz_get_server(server_id))["server"]["data"].get("callsStarted", 0))
