"""What an engine tells of stored records that were damaged behind its back: the truth, row by row."""

from __future__ import annotations

import pytest

from sfm_grpc.app import App
from sfm_grpc.errors import RhoCorrupt, StoreUnavailable, VersionCompacted
from sfm_grpc.model import Kind, RestoreVersion, Scope
from sfm_grpc.settings import Settings
from sfm_grpc.storage.contract import Retention, Store
from tests.support.engines import Engine
from tests.support.matrices import density, sha256, sketch
from tests.support.transactions import N, putting, transaction

OTHER = Scope("default", "other")
HOW = ["metadata", "bytes", "lost"]


async def commit(store: Store, *seeds: int, scope: Scope = N) -> None:
    for seed in seeds:
        await store.commit(transaction(putting("rho", density(seed=seed)), scope=scope))


@pytest.mark.parametrize("how", HOW)
async def test_a_damaged_head_is_told_and_keeps_nobody_from_the_others(
    store: Store, settings: Settings, engine: Engine, how: str
) -> None:
    await commit(store, 1, 2)
    await commit(store, 3, scope=OTHER)
    engine.garble_version(settings, N, 2, how)
    heads = dict(await store.heads(after=None, limit=10))
    assert (heads[N].version, heads[N].valid, heads[OTHER].valid, heads[OTHER].unreadable) == (2, False, True, "")
    assert heads[N].unreadable
    assert [e.key for e in heads[N].entries] == ["rho"]
    for question in (store.read(N), store.read(N, number=2, numbers=False)):
        with pytest.raises(RhoCorrupt) as caught:
            await question
        assert (caught.value.damaged, caught.value.version, caught.value.namespace) == ("version", 2, "n")
        assert "cannot be read" in str(caught.value)
    assert (await store.read(N, number=1)).version.valid
    assert (await store.read(OTHER)).version.valid


@pytest.mark.parametrize("how", HOW)
async def test_a_damaged_head_is_mended_by_a_commit_or_a_restore(
    store: Store, settings: Settings, engine: Engine, how: str
) -> None:
    await commit(store, 1, 2)
    engine.garble_version(settings, N, 2, how)
    change = putting("g", sketch(), Kind.GENERIC)
    assert (await store.commit(transaction(change, expected=2))).number == 3
    assert [e.key for e in (await store.read(N)).version.entries] == ["g", "rho"]
    engine.garble_version(settings, N, 3, how)
    await store.commit(transaction(RestoreVersion(1), expected=3))
    assert (await store.read(N)).numbers.keys() == {sha256(density(seed=1))}


@pytest.mark.parametrize("how", HOW[:2])
async def test_a_damaged_version_is_listed_as_not_valid(store: Store, settings: Settings, engine: Engine, how: str) -> None:
    await commit(store, 1, 2, 3)
    engine.garble_version(settings, N, 2, how)
    listed = (await store.versions(N, before=None, limit=9)).versions
    assert [(v.version, v.valid, bool(v.unreadable)) for v in listed] == [(3, True, False), (2, False, True), (1, True, False)]


async def test_a_damaged_certificate_is_told_from_damaged_numbers(store: Store, settings: Settings, engine: Engine) -> None:
    await commit(store, 1, 2)
    engine.garble(settings, N, 2, "rho")
    engine.corrupt(settings, N, 1, "rho")
    for number, damaged in ((2, "certificate"), (1, "numbers")):
        with pytest.raises(RhoCorrupt) as caught:
            await store.read(N, number=number)
        assert caught.value.damaged == damaged
    assert caught.value.expected_digest == sha256(density(seed=1)).hex()


async def test_a_body_is_read_alone_and_checked(store: Store, settings: Settings, engine: Engine) -> None:
    await store.commit(transaction(putting("rho", density()), putting("g", sketch(), Kind.GENERIC)))
    await commit(store, 2)
    entries = {e.key: e for e in (await store.read(N, numbers=False)).version.entries}
    assert bytes(await store.body(N, entries["rho"], number=2)) == density(seed=2).tobytes()
    engine.corrupt(settings, N, 2, "rho")
    engine.lose(settings, N, 2, "g")
    for entry in entries.values():
        with pytest.raises(RhoCorrupt) as caught:
            await store.body(N, entry, number=2)
        assert (caught.value.key, caught.value.expected_digest) == (entry.key, entry.certificate.digest.hex())
    while await store.compact(N, Retention(1, 0, 10**6, 10**6), 0):
        pass
    with pytest.raises(VersionCompacted):
        await store.body(N, entries["g"], number=1)


async def test_a_compaction_is_short_whatever_the_number_of_keys(store: Store) -> None:
    """A step is bounded in what it looks up, not only in bytes: many small keys are as much work as few large ones."""
    puts = [putting(f"k{place:03}", sketch(seed=place), Kind.GENERIC) for place in range(256)]
    for _ in range(40):
        await store.commit(transaction(*puts))
    keep, steps = Retention(4, 0, 10**6, 10**6), []
    while count := await store.compact(N, keep, 0):
        steps.append(count)
    assert sum(steps) == 36
    assert steps[0] == 1
    assert all(count * 256 * 4 <= 2 * 8192 for count in steps)
    assert len((await store.read(N)).numbers) == 256


async def test_a_closed_store_cannot_say_the_version(settings: Settings) -> None:
    store = App(settings).store
    assert store.peek(N) is None
    await store.open()
    assert store.peek(N) == (0 if store.peeks else None)
    await store.close()
    assert store.peek(N) is None
    with pytest.raises(StoreUnavailable):
        await store.check()
