"""The numbers of a history, each distinct matrix fetched once, oldest version first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfm_grpc.cli.history import BodyId, body_id
from sfm_grpc.client import Entry, Namespace, NotFound, RhoCorrupt, RhoVersion, VersionCompacted


@dataclass(frozen=True, slots=True)
class Body:
    """One distinct matrix of a history."""

    version: int
    """The oldest version, of those that were asked for, that holds it."""
    entry: Entry
    array: np.ndarray[Any, Any] | None
    """None: it cannot be had, and `problem` says why."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Gone:
    """Retention was faster: this version, and with it all older ones, cannot be read any more."""

    version: int


def fetch_bodies(namespace: Namespace, versions: Iterable[RhoVersion]) -> Iterator[Body | Gone]:
    """Reads `versions`, oldest first, without reading anything twice. Raises what `Namespace.read` raises."""
    seen: set[BodyId] = set()
    for version in versions:
        wanted = [e for e in version.entries if body_id(e.certificate) not in seen]
        try:
            yield from _fetch(namespace, version.version, wanted)
        except (VersionCompacted, NotFound):
            yield Gone(version.version)
        else:
            seen.update(body_id(e.certificate) for e in wanted)


def _fetch(namespace: Namespace, version: int, wanted: Sequence[Entry]) -> Iterator[Body]:
    if not wanted:
        return
    try:
        snapshot = namespace.read([e.key for e in wanted], version=version)
    except RhoCorrupt as error:
        if len(wanted) == 1:
            yield Body(version, wanted[0], None, str(error))
            return
        # One bad matrix hides the others of its version; alone they can be read.
        for entry in wanted:
            yield from _fetch(namespace, version, [entry])
        return
    for entry in wanted:
        yield Body(version, entry, snapshot[entry.key])


def distinct(versions: Iterable[RhoVersion]) -> int:
    """How many matrices `fetch_bodies` will fetch."""
    return len({body_id(e.certificate) for v in versions for e in v.entries})


def all_versions(namespace: Namespace) -> list[RhoVersion]:
    """The versions that are kept, oldest first. Raises NotFound."""
    return sorted(namespace.versions(), key=lambda v: v.version)
