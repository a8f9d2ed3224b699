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
from sfm_grpc.storage.manifest import manifest_of, name_of


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
    _manifest_name: bytes = b""

    @property
    def manifest_name(self) -> bytes:
        """SHA-256 of the version's manifest: tells this version from every other history's."""
        if not self._manifest_name:
            self._manifest_name = name_of(manifest_of(self.version))
        return self._manifest_name

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

    def keep(self, scope: Scope, version: Version, at_hand: Mapping[bytes, Buffer], *, as_of_us: int, asked_s: float) -> Snapshot:
        """Puts a snapshot together, of those numbers at hand that `version` holds, and keeps it as `put` does."""
        held = version.digests()
        snapshot = Snapshot(version, {digest: n for digest, n in at_hand.items() if digest in held}, as_of_us)
        self.put(scope, snapshot, asked_s=asked_s)
        return snapshot

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
