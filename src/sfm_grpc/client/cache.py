"""What the client already has: the newest snapshot of each (namespace, keys), and the newest version it has heard of."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np

from sfm_grpc.client.records import Array, Snapshot
from sfm_grpc.errors import InvalidRequest, SfmError, VersionConflict, VersionNotReached

Selection: TypeAlias = tuple[str, ...] | None
"""The keys that were asked for, in order; None: all of them."""

# A caller that walks through more namespaces than this keeps the promise of monotonic reads for the latest ones.
_NAMESPACES_MAX = 65_536


class Kept:
    """Snapshots within a budget of bytes, the least recently used going first. Safe to share between threads."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._snapshots: OrderedDict[tuple[str, Selection], tuple[Snapshot, int]] = OrderedDict()
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """What is kept now: the messages that the kept arrays look into."""
        return self._bytes

    def saw(self, namespace: str, version: int) -> None:
        """Remembers that the namespace has come as far as `version`."""
        with self._lock:
            if version > self._seen.get(namespace, 0):
                self._seen[namespace] = version
                self._seen.move_to_end(namespace)
                if len(self._seen) > _NAMESPACES_MAX:
                    self._seen.popitem(last=False)

    def refused(self, namespace: str, error: SfmError) -> None:
        """A refusal names the namespace's version too: no later read may be older."""
        if not _of_memories(error):
            self.saw(namespace, getattr(error, "current", 0))
        if isinstance(error, VersionNotReached) and error.current < self.newest_seen(namespace):
            # The server came back from a backup: its next versions will have the numbers of ours, not their content.
            self.drop_snapshots(namespace)

    def newest_seen(self, namespace: str) -> int:
        """The newest version that any answer has named; 0: none."""
        return self._seen.get(namespace, 0)

    def find(self, namespace: str, selection: Selection) -> Snapshot | None:
        """The newest kept snapshot that answers this selection, if need be a part of one of all keys."""
        with self._lock:
            found = self._get(namespace, selection)
            if selection is None:
                return found
            whole = self._get(namespace, None)
        if whole is None or (found is not None and found.version >= whole.version) or not all(k in whole for k in selection):
            return found
        return whole.restricted(selection)

    def keep(self, selection: Selection, snapshot: Snapshot) -> None:
        """Keeps the snapshot, unless a newer one of the same selection is kept or it is over the whole budget."""
        place, cost = (snapshot.namespace, selection), _cost(snapshot)
        with self._lock:
            held = self._snapshots.get(place)
            if cost > self._bytes_max or (held is not None and held[0].version > snapshot.version):
                return
            self._drop(place)
            self._snapshots[place] = snapshot, cost
            self._bytes += cost
            while self._bytes > self._bytes_max:
                self._drop(next(iter(self._snapshots)))

    def at_version(self, namespace: str, version: int) -> list[tuple[Selection, Snapshot]]:
        """Every kept snapshot of this very version."""
        with self._lock:
            return [(s, held) for (n, s), (held, _) in self._snapshots.items() if n == namespace and held.version == version]

    def forget(self, namespace: str) -> None:
        """Drops everything known of the namespace."""
        self.drop_snapshots(namespace)
        with self._lock:
            self._seen.pop(namespace, None)

    def drop_snapshots(self, namespace: str) -> None:
        """Drops the numbers, not the newest version seen."""
        with self._lock:
            for place in [p for p in self._snapshots if p[0] == namespace]:
                self._drop(place)

    def _get(self, namespace: str, selection: Selection) -> Snapshot | None:
        place = (namespace, selection)
        if place not in self._snapshots:
            return None
        self._snapshots.move_to_end(place)
        return self._snapshots[place][0]

    def _drop(self, place: tuple[str, Selection]) -> None:
        if place in self._snapshots:
            self._bytes -= self._snapshots.pop(place)[1]


def _of_memories(error: SfmError) -> bool:
    """A conflict about a memory names revisions, which are numbered apart."""
    return isinstance(error, VersionConflict) and bool(error.key or error.field == "if_revision")


def selection_of(keys: str | Iterable[str] | None) -> Selection:
    """The keys in order, each once; a single key may be given as it is."""
    if keys is None:
        return None
    return tuple(sorted({keys} if isinstance(keys, str) else set(keys)))


def checked_selection(keys: str | Iterable[str] | None) -> Selection:
    """The same. Raises InvalidRequest when no key is named: that would be all of them."""
    selection = selection_of(keys)
    if selection == ():
        raise InvalidRequest(field="keys", problem="no key is named; None reads all of them")
    return selection


def _cost(snapshot: Snapshot) -> int:
    """Bytes of the messages that the snapshot keeps alive: a small array pins the whole message it looks into."""
    owners = (_owner(array) for array in snapshot.matrices.values())
    return sum(dict(owners).values())


def _owner(array: Array) -> tuple[int, int]:
    base: object = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return id(base), base.nbytes if isinstance(base, np.ndarray) else len(base)  # type: ignore[arg-type]
