"""What a history must be, whoever tells it: every version follows from the one before and from what its commit changed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from sfm_grpc.client import Entry, RhoVersion
from sfm_grpc.model import Certificate, Dtype, Layout

BodyId: TypeAlias = tuple[bytes, Dtype, Layout, tuple[int, int]]
"""What makes stored numbers the same: their digest and how they are read."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that is wrong, and where. No version: the whole; no key: the version."""

    problem: str
    version: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        place = "" if self.version is None else f"version {self.version}: "
        return place + (f"{self.key!r}: " if self.key is not None else "") + self.problem


_NOTHING = RhoVersion(0, datetime.fromtimestamp(0, UTC), "", {}, True, 0, (), ())
"""What every namespace holds before its first commit."""


def body_id(certificate: Certificate) -> BodyId:
    """Which numbers a certificate speaks of."""
    return certificate.digest, certificate.dtype, certificate.layout, certificate.shape


def check_history(versions: Sequence[RhoVersion]) -> list[Wrong]:
    """Everything that cannot be true of versions, oldest first. Numbers are not looked at."""
    known = {v.version: v for v in versions}
    wrong = list(_check_order(versions))
    for before, version in zip((None, *versions[:-1]), versions, strict=True):
        wrong += (Wrong(problem, version.version, key) for key, problem in _check_version(version, before, known))
    return wrong


def _check_order(versions: Sequence[RhoVersion]) -> Iterator[Wrong]:
    for place, (before, after) in enumerate(itertools.pairwise(versions)):
        if after.version <= before.version:
            yield Wrong(f"comes after version {before.version}", after.version)
        # Retention keeps the newest valid version, however old: a gap after it, and nowhere else, is as it should be.
        elif after.version != before.version + 1 and not (place == 0 and before.valid):
            yield Wrong(f"versions {before.version + 1} to {after.version - 1} are missing before it", after.version)
        if after.commit_time < before.commit_time:
            yield Wrong(f"was committed before version {before.version}, which it follows", after.version)


def _check_version(
    version: RhoVersion, before: RhoVersion | None, known: Mapping[int, RhoVersion]
) -> Iterator[tuple[str | None, str]]:
    keys = [e.key for e in version.entries]
    if len(set(keys)) < len(keys):
        yield None, "holds a key twice"
    if version.valid != all(e.certificate.valid for e in version.entries):
        yield None, f"says valid = {str(version.valid).lower()}, its certificates say otherwise"
    for entry in version.entries:
        yield from ((entry.key, problem) for problem in _check_entry(entry, version, known))
    if version.restored_version:
        yield from _check_held(version, known.get(version.restored_version), set(), "which it restored")
    elif before is None and version.version == 1:
        yield from _check_held(version, _NOTHING, set(version.changed_keys), "which holds nothing")
    elif before is not None and before.version == version.version - 1:
        yield from _check_held(version, before, set(version.changed_keys), "which it follows, without having changed it")


def _check_entry(entry: Entry, version: RhoVersion, known: Mapping[int, RhoVersion]) -> Iterator[str]:
    if not 1 <= entry.put_version <= version.version:
        yield f"was put by version {entry.put_version}"
    elif entry.key in version.changed_keys and not version.restored_version and entry.put_version != version.version:
        yield f"was changed by this version, but put by version {entry.put_version}"
    source = known.get(entry.put_version)
    if source is not None and not any(_same(entry, e) for e in source.entries):
        yield f"is not what version {entry.put_version} put"


def _check_held(
    version: RhoVersion, source: RhoVersion | None, changed: set[str], relation: str
) -> Iterator[tuple[str | None, str]]:
    """What was not changed is as it was."""
    if source is None:
        return
    then, now = _unchanged(source.entries, changed), _unchanged(version.entries, changed)
    for key in sorted(then.keys() | now.keys()):
        if key not in then or key not in now or not _same(then[key], now[key]):
            yield key, f"differs from version {source.version}, {relation}"


def _unchanged(entries: Iterable[Entry], changed: set[str]) -> dict[str, Entry]:
    return {e.key: e for e in entries if e.key not in changed}


def _same(a: Entry, b: Entry) -> bool:
    return (a.key, a.put_version, a.certificate) == (b.key, b.put_version, b.certificate)
