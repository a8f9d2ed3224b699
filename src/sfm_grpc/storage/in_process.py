"""Snapshots kept in this process's memory, the least recently read go first.

What is kept here is never wrong, only possibly not the newest: numbers are named by their SHA-256, versions never change.
Whether a kept version is the newest is asked of the store at each read.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

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

    @property
    def size_bytes(self) -> int:
        """Numbers and, at most, one finished answer of them."""
        return 2 * sum(len(n) for n in self.numbers.values()) + 4096


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

    def put(self, scope: Scope, snapshot: Snapshot) -> None:
        """Keeps a snapshot, unless a newer one is there; makes room for it."""
        old = self._kept.get(scope)
        if old is not None and old.version.version > snapshot.version.version:
            return
        if snapshot.size_bytes > self._bytes_max:
            self.drop(scope)
            return
        self.drop(scope)
        snapshot.used_s = time.monotonic()
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
