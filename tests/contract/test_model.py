"""Random histories against a model of a few lines: what the contract means, an engine does."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest

from sfm_grpc.errors import KindChanged, NotFound, RequestIdReused, SfmError, VersionCompacted, VersionConflict
from sfm_grpc.model import Kind, MatrixChange, PutMatrix, RequestIdentity, RestoreVersion, Scope
from sfm_grpc.storage.contract import Retention, Store
from tests.support.transactions import deleting, putting, request, transaction

STEPS = 120
SCOPES = [Scope("t", "n"), Scope("t", "m"), Scope("u", "n")]
KEYS = ["a", "b", "c"]


@dataclass
class Space:
    """A namespace as the contract means it: each kept version is a mapping from key to number."""

    versions: dict[int, dict[str, float]] = field(default_factory=dict)
    newest: int = 0
    kinds: dict[str, Kind] = field(default_factory=dict)
    requests: dict[str, tuple[bytes, int]] = field(default_factory=dict)

    def commit(
        self, changes: list[MatrixChange], expected: int | None, asked: RequestIdentity | None, *, only_validate: bool
    ) -> int:
        """The version that is made, or would be, or was; raises the class of what is refused."""
        if asked and asked.request_id in self.requests:
            content, version = self.requests[asked.request_id]
            if content != asked.content_digest:
                raise _Refused(RequestIdReused)
            return version
        if expected is not None and expected != self.newest:
            raise _Refused(VersionConflict)
        held, kinds = self.applied(changes)
        if only_validate:
            return self.newest + 1
        self.newest += 1
        self.kinds = kinds
        self.versions[self.newest] = held
        if asked:
            self.requests[asked.request_id] = (asked.content_digest, self.newest)
        return self.newest

    def applied(self, changes: list[MatrixChange]) -> tuple[dict[str, float], dict[str, Kind]]:
        held, kinds = dict(self.versions.get(self.newest, {})), dict(self.kinds)
        for change in changes:
            if isinstance(change, RestoreVersion):
                if change.version > self.newest:
                    raise _Refused(NotFound)
                if change.version not in self.versions:
                    raise _Refused(VersionCompacted)
                held = dict(self.versions[change.version])
            elif isinstance(change, PutMatrix):
                if kinds.setdefault(change.key, change.matrix.kind) is not change.matrix.kind:
                    raise _Refused(KindChanged)
                held[change.key] = float(change.matrix.array()[0, 0])
            else:
                held.pop(change.key, None)
        return held, kinds

    def compact(self, keep: int) -> None:
        self.versions = {v: held for v, held in self.versions.items() if v > self.newest - keep}


class _Refused(Exception):  # noqa: N818  an answer of the model, not an error
    def __init__(self, kind: type[SfmError]) -> None:
        self.kind = kind


def some_changes(rng: random.Random, space: Space) -> list[MatrixChange]:
    if rng.random() < 0.2:
        return [RestoreVersion(rng.randint(1, space.newest + 2))]
    changes: list[MatrixChange] = []
    for key in rng.sample(KEYS, rng.randint(1, len(KEYS))):
        if rng.random() < 0.3:
            changes.append(deleting(key))
            continue
        # A density matrix of one number is 1; a generic one is any number.
        kind = Kind.GENERIC if rng.random() < 0.9 else Kind.DENSITY
        number = 1.0 if kind is Kind.DENSITY else rng.random()
        changes.append(putting(key, np.array([[number]]), kind))
    return changes


async def told(store: Store, scope: Scope, version: int | None) -> dict[str, float]:
    reading = await store.read(scope, number=version)
    return {e.key: float(np.frombuffer(reading.numbers[e.certificate.digest])[0]) for e in reading.version.entries}


async def check(store: Store, scope: Scope, space: Space) -> None:
    """Every version, kept or not, as the model has it."""
    assert store.peek(scope) == (space.newest if store.peeks else None)
    if space.newest == 0:
        with pytest.raises(NotFound):
            await store.read(scope)
        return
    assert await told(store, scope, None) == space.versions[space.newest]
    page = await store.versions(scope, before=None, limit=1000)
    assert [v.version for v in page.versions] == sorted(space.versions, reverse=True)
    assert (page.newest, page.oldest) == (space.newest, min(space.versions))
    for version in range(1, space.newest + 1):
        if version in space.versions:
            assert await told(store, scope, version) == space.versions[version]
        else:
            with pytest.raises(VersionCompacted):
                await store.read(scope, number=version)
    for request_id in space.requests:
        assert await store.remembers(scope, "CommitRho", request_id)


@pytest.mark.parametrize("seed", range(5))
async def test_random_histories_are_what_the_model_says(store: Store, seed: int) -> None:
    rng, spaces, seen = random.Random(seed), {scope: Space() for scope in SCOPES}, set[str]()
    for _ in range(STEPS):
        scope = rng.choice(SCOPES)
        space = spaces[scope]
        if rng.random() < 0.1:
            keep = rng.randint(2, 6)
            while await store.compact(scope, Retention(keep, 0, 10**6, 10**6), 0):
                pass
            space.compact(keep)
        changes = some_changes(rng, space)
        expected = rng.choice([None, space.newest, space.newest, space.newest, rng.randint(0, space.newest + 1)])
        asked = request(f"r{rng.randrange(20)}", bytes([rng.randrange(2)]) * 32) if rng.random() < 0.5 else None
        only_validate = rng.random() < 0.15
        t = transaction(*changes, scope=scope, expected=expected, asked=asked, validate_only=only_validate)
        try:
            wanted: object = space.commit(changes, expected, asked, only_validate=only_validate)
        except _Refused as refused:
            with pytest.raises(refused.kind):
                await store.commit(t)
            seen.add(refused.kind.__name__)
        else:
            assert (await store.commit(t)).number == wanted
            seen.add("made")
    for scope, space in spaces.items():
        await check(store, scope, space)
    assert {"made", "VersionConflict", "RequestIdReused"} <= seen
