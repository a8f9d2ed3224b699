"""Many versions and many namespaces: each certificate is fetched once, a few at a time, and what is held outlives what is not."""

from __future__ import annotations

import random
import threading

import pytest

from sfm_grpc.model import Certificate, Entry, Kind, MatrixChange, RestoreVersion, Scope
from sfm_grpc.settings import Settings
from sfm_grpc.storage import codec
from sfm_grpc.storage.contract import Retention, Store
from sfm_grpc.storage.postgres import housekeeping, reads
from tests.support.engines import Engine
from tests.support.matrices import density, sketch
from tests.support.transactions import N, deleting, putting, transaction

pytestmark = pytest.mark.engines("postgres")

KEYS = [f"k{place}" for place in range(4)]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For each certificate that was parsed, the thread that did."""
    threads: list[int] = []
    parse = codec.certificate_from_json

    def watched(text: str) -> Certificate:
        threads.append(threading.get_ident())
        return parse(text)

    monkeypatch.setattr(codec, "certificate_from_json", watched)
    return threads


async def put(store: Store, *keys: str, scope: Scope = N) -> None:
    await store.commit(transaction(*(putting(k, sketch(seed=len(k)), Kind.GENERIC) for k in keys), scope=scope))


async def entries(store: Store, number: int) -> tuple[Entry, ...]:
    return (await store.read(N, number=number, numbers=False)).version.entries


async def test_a_page_of_versions_brings_each_certificate_once(store: Store, parsed: list[int]) -> None:
    await put(store, *KEYS)
    for key in KEYS:
        await put(store, key)
    await store.commit(transaction(RestoreVersion(2)))
    await store.commit(transaction(*(deleting(key) for key in KEYS)))
    for before, bodies in ((None, 8), (7, 8), (4, 6), (2, 4)):
        parsed.clear()
        page = await store.versions(N, before=before, limit=10)
        assert [v.version for v in page.versions] == list(range((before or 8) - 1, 0, -1))
        assert len(parsed) == bodies
        assert threading.get_ident() not in parsed
    parsed.clear()
    assert [v.entries for v in (await store.versions(N, before=None, limit=1)).versions] == [()]
    assert parsed == []


async def test_each_version_is_listed_with_what_it_holds(store: Store, settings: Settings, engine: Engine) -> None:
    await put(store, *KEYS)
    for key in KEYS:
        await store.commit(transaction(putting(key, sketch(seed=7), Kind.GENERIC), deleting("k0")))
    await store.commit(transaction(RestoreVersion(2), putting("rho", density())))
    await store.commit(transaction(*(deleting(key) for key in (*KEYS, "rho"))))
    engine.lose(settings, N, 2, "k3")
    engine.garble(settings, N, 3, "k1")
    page = await store.versions(N, before=None, limit=10)
    assert [v.version for v in page.versions] == [7, 6, 5, 4, 3, 2, 1]
    for version in page.versions:
        assert version.entries == await entries(store, version.version)
    lost = [v.version for v in page.versions if any(e.certificate is codec.UNREADABLE for e in v.entries)]
    assert lost == [6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("limit", [1, 4, 9, 10])
async def test_heads_come_in_slices_and_none_is_left_out(
    store: Store, parsed: list[int], monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """A namespace may hold none, or more than a slice may."""
    scopes = [Scope("t", f"n{place}") for place in range(9)]
    held = [KEYS[: place % 4] if place != 5 else [*KEYS, "k5", "k6"] for place in range(9)]
    for scope, keys in zip(scopes, held, strict=True):
        await (put(store, *keys, scope=scope) if keys else store.commit(transaction(deleting("k"), scope=scope)))
    monkeypatch.setattr(reads, "_KEYS_AT_ONCE", 4)
    parsed.clear()
    found = list(await store.heads(after=None, limit=limit))
    assert len(found) == min(limit, 9)
    while len(found) < 9:
        page = await store.heads(after=found[-1][0], limit=limit)
        assert page
        found += page
    assert await store.heads(after=found[-1][0], limit=limit) == []
    assert [scope for scope, _ in found] == scopes
    assert [[e.key for e in version.entries] for _, version in found] == held
    assert len(parsed) == sum(map(len, held))
    assert threading.get_ident() not in parsed


@pytest.mark.parametrize("seed", range(3))
async def test_numbers_stay_whichever_versions_go(
    store: Store, settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Which versions go is another statement's business: what is held is kept also if they go from the middle."""
    some = f"""SELECT version, 0 FROM sfm.rho_version WHERE namespace_id = %(namespace_id)s::bigint
      AND version < %(newest)s::bigint AND hashint8(version * 31 + %(newest)s::bigint + {seed}) %% 3 = 0 ORDER BY version"""
    monkeypatch.setitem(housekeeping.SQL, "list_expired", some)
    rng, held, kept = random.Random(seed), dict[int, set[tuple[str, int]]](), list[int]()
    for step in range(100):
        changes: list[MatrixChange] = [putting(rng.choice(KEYS), sketch(seed=step), Kind.GENERIC), deleting(rng.choice(KEYS))]
        change = RestoreVersion(rng.choice(kept)) if kept and rng.random() < 0.4 else rng.choice(changes)
        made = (await store.commit(transaction(change))).version
        held[made.version] = {(e.key, e.put_version) for e in made.entries}
        kept.append(made.version)
        if step % 7 == 0:
            await store.compact(N, Retention(1, 0, 10**6, 10**6), 0)
            kept = engine.versions(settings, N)
            assert engine.bodies(settings) == len(set().union(*(held[version] for version in kept)))
            assert engine.damage(settings) == []
