"""What this process knows of namespaces' newest versions, from its own last commits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from sfm_grpc.model import Entry, Scope
from sfm_grpc.storage.decisions import Head

# Certificates kept in memory, about 1 KiB each.
_ENTRIES_MAX = 32_768


@dataclass(frozen=True, slots=True)
class KnownHead:
    """A head as it was once. `commit_id` tells whether it still is: every commit draws its own, 63 random bits."""

    namespace_id: int
    commit_id: int
    compactions: int
    """How often versions were taken away, when it was looked at: whether a version to restore may have gone since."""
    head: Head
    held: Mapping[str, Entry]


class Heads:
    """The heads last committed, the least recently used go first."""

    def __init__(self, entries_max: int = _ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._kept: OrderedDict[Scope, KnownHead] = OrderedDict()
        self._entries = 0

    def get(self, scope: Scope) -> KnownHead | None:
        """What is known; never taken for true without being compared."""
        known = self._kept.get(scope)
        if known is not None:
            self._kept.move_to_end(scope)
        return known

    def put(self, scope: Scope, known: KnownHead) -> None:
        """Remembers a head that was just made."""
        old = self._kept.pop(scope, None)
        self._kept[scope] = known
        self._entries += _size(known) - (_size(old) if old else 0)
        while self._entries > self._entries_max and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._entries -= _size(dropped)


def _size(known: KnownHead) -> int:
    return 1 + len(known.held)
