"""Who is worst, kept while things change: asking costs what is shown, not what there is."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

_K = TypeVar("_K")

# More left-over entries than this beside the current ones are swept out at once.
_SLACK = 1024


class WorstFirst(Generic[_K]):
    """Items by their rank, the smallest first. A heap whose outdated entries are dropped when they are met."""

    def __init__(self) -> None:
        self._now: dict[_K, tuple[tuple[float, ...], int]] = {}
        self._heap: list[tuple[tuple[float, ...], int, _K]] = []
        self._turns = itertools.count()

    def __len__(self) -> int:
        """How many items there are."""
        return len(self._now)

    def put(self, item: _K, rank: tuple[float, ...]) -> None:
        """Gives an item its rank, instead of the one it had."""
        turn = next(self._turns)
        self._now[item] = rank, turn
        heapq.heappush(self._heap, (rank, turn, item))
        if len(self._heap) > 2 * len(self._now) + _SLACK:
            self._heap = [(rank, turn, item) for item, (rank, turn) in self._now.items()]
            heapq.heapify(self._heap)

    def drop(self, item: _K) -> None:
        """Takes an item out; nothing happens where it is absent."""
        self._now.pop(item, None)

    def first(self, count: int) -> list[_K]:
        """The first items, at most `count`."""
        found: list[tuple[tuple[float, ...], int, _K]] = []
        while self._heap and len(found) < count:
            entry = heapq.heappop(self._heap)
            rank, turn, item = entry
            if self._now.get(item) == (rank, turn):
                found.append(entry)
        for entry in found:
            heapq.heappush(self._heap, entry)
        return [item for _, _, item in found]
