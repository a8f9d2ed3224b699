"""Which numbers go with the versions that held them: exactly those that nothing holds any more, whatever was restored."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sfm_grpc.model import Kind, MatrixChange, RestoreVersion
from sfm_grpc.settings import Settings
from sfm_grpc.storage.contract import Retention, Store
from tests.support.engines import Engine
from tests.support.matrices import density, with_eigenvalue
from tests.support.transactions import N, deleting, putting, transaction

STEPS = 150
KEYS = ["a", "b", "c", "d"]
BAD = putting("rho", with_eigenvalue(-0.1), valid=False)
GOOD = putting("rho", density())


def some_changes(rng: random.Random, kept: list[int]) -> list[MatrixChange]:
    """What follows from a version that is kept, mostly with little change; a while not valid, so that an old one stays."""
    changes: list[MatrixChange] = []
    if kept and rng.random() < 0.25:
        changes.append(RestoreVersion(rng.choice([kept[0], kept[-1], rng.choice(kept)])))
    elif rng.random() < 0.2:
        changes.append(rng.choice([BAD, BAD, GOOD, deleting("rho")]))
    changes += (
        deleting(key) if rng.random() < 0.3 else putting(key, np.array([[rng.random()]]), Kind.GENERIC)
        for key in rng.sample(KEYS, rng.choice([0, 1, 1, 2]))
    )
    return changes or [GOOD]


@pytest.mark.parametrize("seed", range(4))
async def test_numbers_stay_as_long_as_a_kept_version_holds_them(
    store: Store, settings: Settings, engine: Engine, seed: int
) -> None:
    rng = random.Random(seed)
    held: dict[int, dict[str, int]] = {}
    kept: list[int] = []
    for step in range(STEPS):
        made = (await store.commit(transaction(*some_changes(rng, kept), time_us=step))).version
        held[made.version] = {e.key: e.put_version for e in made.entries}
        kept.append(made.version)
        if rng.random() < 0.2:
            keep = Retention(rng.choice([1, 2, 5, 20]), rng.choice([0, 1]), 10**6, 10**6)
            await store.compact(N, keep, now_us=step - rng.randint(1, 20) + 10**6)
            kept = engine.versions(settings, N)
            bodies = {body for version in kept for body in held[version].items()}
            assert engine.bodies(settings) == len(bodies)
    for version in kept:
        assert {e.key: e.put_version for e in (await store.read(N, number=version)).version.entries} == held[version]
    assert len(kept) < STEPS / 2
