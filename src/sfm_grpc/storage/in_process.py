"""Snapshots kept in this process's memory, the least recently read go first.

Numbers are named by their SHA-256 and never wrong. Versions are named by their number, and that is right within one history only:
a backup that was restored, or a standby that had not seen the last commits and took over, goes back to an older version and goes on
from there with others of the same numbers. Which is the newest, and what is in it, is asked of the store at each read.

So a look at the store is judged by when it was asked. One that was asked after the kept snapshot had been kept saw the store later
than whoever told us of that snapshot: it wins, whatever its number. One that was asked before may have seen the store earlier, or
later; of two such the higher number wins, which within one history is the newer, so a slow answer takes nothing back that was
committed meanwhile. Only where the history was replaced while both were under way may the dead one stay: until the next look, which
is asked after it was kept, and wins.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sfm_grpc.model import Buffer, Scope, Version


@dataclass(slots=True)
class Snapshot:
    """One version and those of its numbers that are at hand."""

    version: Version
    numbers: Mapping[bytes, Buffer]
    """By digest."""
    as_of_us: int
    """When this version was last known to be the newest."""
    ready: dict[object, object] = field(default_factory=dict)
    """What a translator made of it and would make again: finished answers. Goes when the snapshot goes."""
    used_s: float = 0.0
    kept_s: float = 0.0
    """When it was kept, on time.monotonic()."""

    @property
    def size_bytes(self) -> int:
        """Numbers and, at most, one finished answer of them."""
        return 2 * sum(len(n) for n in self.numbers.values()) + 4096


def is_same_commit(one: Version, other: Version) -> bool:
    """Whether two records are of one commit, and not of two histories' commits of the same number.

    Commit time, committer and all else in them tell, but for the certificates: these are the only ones that can be damaged and still
    be read, and damage is not another history. Nor is a record that cannot be read.
    """
    if one.version != other.version or one.unreadable or other.unreadable:
        return one.version == other.version
    held, held_by_other = ([(e.key, e.put_version) for e in v.entries] for v in (one, other))
    return held == held_by_other and replace(one, entries=()) == replace(other, entries=())


class SnapshotCache:
    """The newest known snapshot of each namespace, within a budget of bytes."""

    def __init__(self, *, bytes_max: int, ttl_s: float) -> None:
        self._bytes_max = bytes_max
        self._ttl_s = ttl_s
        self._kept: OrderedDict[Scope, Snapshot] = OrderedDict()
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        """What is kept now."""
        return self._bytes

    def get(self, scope: Scope) -> Snapshot | None:
        """The kept snapshot, whatever its age."""
        snapshot = self._kept.get(scope)
        if snapshot is not None:
            snapshot.used_s = time.monotonic()
            self._kept.move_to_end(scope)
        return snapshot

    def put(self, scope: Scope, snapshot: Snapshot, *, asked_s: float) -> None:
        """Keeps a snapshot that was asked for at `asked_s`, unless a newer one was kept since; makes room for it."""
        old = self._kept.get(scope)
        if old is not None and asked_s < old.kept_s and old.version.version > snapshot.version.version:
            return
        if snapshot.size_bytes > self._bytes_max:
            self.drop(scope)
            return
        self.drop(scope)
        snapshot.used_s = snapshot.kept_s = time.monotonic()
        self._kept[scope] = snapshot
        self._bytes += snapshot.size_bytes
        while self._bytes > self._bytes_max:
            self.drop(next(iter(self._kept)))

    def drop(self, scope: Scope) -> None:
        """Forgets a namespace."""
        old = self._kept.pop(scope, None)
        if old is not None:
            self._bytes -= old.size_bytes

    def sweep(self) -> None:
        """Forgets what nobody has read for `ttl_s`."""
        before = time.monotonic() - self._ttl_s
        while self._kept:
            scope, snapshot = next(iter(self._kept.items()))
            if snapshot.used_s >= before:
                return
            self.drop(scope)
