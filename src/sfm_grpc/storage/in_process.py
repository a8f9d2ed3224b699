"""Snapshots kept in this process's memory, the least recently read go first.

Numbers are named by their SHA-256 and never wrong. A version is named by its number, which is right within one history only: a
backup that was restored, or a standby that took over without having seen the last commits, is at an older version and goes on
from there with others of the same numbers. Which is the newest, and what it holds, is asked of the store at each read.

What is kept is therefore decided by when the store was asked, and only then by numbers. A look that was asked after the kept
snapshot was kept saw a later state of the store than that snapshot: it wins, whatever its number. One that was asked before may
have seen an earlier state or a later one; within one history the higher number is the later one and wins, so a slow reading takes
nothing back that was committed meanwhile. Where the history was replaced while both were under way, that may be the dead one; it
lasts until the next look, which is asked after it was kept.
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

    Commit time, committer, the keys and who put them tell. Not the certificates: one that changed is damage, and must be told as
    such. A record that cannot be read is damage, too.
    """
    if one.version != other.version:
        return False
    if one.unreadable or other.unreadable:
        return True
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

    def numbers(self, scope: Scope) -> Mapping[bytes, Buffer]:
        """The numbers that are kept of a namespace, by digest."""
        snapshot = self.get(scope)
        return snapshot.numbers if snapshot else {}

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
