"""Whether Redis is worth asking: after a few failures in a row it is left alone, and asked again at leisure."""

from __future__ import annotations

import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable

_log = logging.getLogger(__name__)

_FAILURES_MAX = 3
# How soon it is asked again, and how late at most.
_PAUSE_MIN_S, _PAUSE_MAX_S = 0.1, 2.0
# What comes and goes within this is flapping: each time it must stay twice as long before it is registered again.
_FLAPPING_S = 600.0
_SETTLE_MAX_S = 300.0
_NAMES_MAX = 4096  # a cluster has a name for each node


class Breaker:
    """Counts failures, and how long each cache has been there."""

    def __init__(self, settle_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._settle_s = settle_s
        self._clock = clock
        self._failures = 0
        self._opened = 0
        self._retry_at = 0.0
        self._closed_at: float | None = None
        """Since when it answers; None: it does not, or has never been asked."""
        self._first_seen: OrderedDict[str, float] = OrderedDict()
        self._changes: deque[float] = deque(maxlen=64)
        """When it went, or another took its place."""
        self.problem = "not asked yet"
        """What it last failed with; '' while it answers."""
        self.gone = False
        """It was asked again at leisure since it failed, and failed again."""

    @property
    def is_open(self) -> bool:
        """Whoever asks would only lose time."""
        return self._opened > 0

    def is_due(self) -> bool:
        """Whether it is time to ask again."""
        return self._clock() >= self._retry_at

    def worked(self) -> None:
        """It answered."""
        self._failures = 0
        if self._opened or self._closed_at is None:
            self._closed_at = self._clock()
            if self._opened:
                _log.info("Redis answers again")
            self._opened, self.gone = 0, False
        self.problem = ""

    def failed(self, problem: str, *, at_leisure: bool = False) -> None:
        """It did not answer, or not in time; `at_leisure`: with all the time it may need."""
        self.problem = problem
        self._failures += 1
        self.gone = self.gone or at_leisure
        if self._failures < _FAILURES_MAX and not at_leisure:
            return
        if not self._opened:
            _log.warning("Redis is left alone for a while: %s", problem)
            if self._closed_at is not None:
                self._changes.append(self._clock())
            self._closed_at = None
        self._opened += 1
        pause_s = min(_PAUSE_MAX_S, _PAUSE_MIN_S * 2.0 ** min(self._opened - 1, 10))
        self._retry_at = self._clock() + pause_s * random.uniform(0.5, 1)  # noqa: S311  no secret

    def answered_as(self, name: str) -> None:
        """Which process it was."""
        if name in self._first_seen:
            return
        if self._first_seen:
            self._changes.append(self._clock())
        self._first_seen[name] = self._clock()
        if len(self._first_seen) > _NAMES_MAX:
            self._first_seen.popitem(last=False)

    def is_settled(self, name: str) -> bool:
        """It has been there for long enough; after each change within ten minutes for twice as long, at most five minutes."""
        now, seen = self._clock(), self._first_seen.get(name)
        if seen is None or self._closed_at is None:
            return False
        recent = sum(changed > now - _FLAPPING_S for changed in self._changes)
        needed_s = min(_SETTLE_MAX_S, self._settle_s * 2.0 ** max(0, recent - 1))
        return now - max(seen, self._closed_at) >= needed_s
