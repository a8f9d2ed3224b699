"""`storage.contract.Store`, asked directly: what an engine promises to the floor above it."""

from __future__ import annotations

import pytest

from sfm_grpc.app import App
from sfm_grpc.errors import (
    KindChanged,
    LimitExceeded,
    NotFound,
    RequestIdReused,
    RhoCorrupt,
    StoreUnavailable,
    VersionCompacted,
    VersionConflict,
)
from sfm_grpc.model import Kind, RestoreVersion, Scope
from sfm_grpc.settings import Settings
from sfm_grpc.storage.contract import Retention, Store
from tests.support.engines import Engine
from tests.support.matrices import density, sha256, sketch, with_eigenvalue
from tests.support.transactions import N, deleting, putting, request, transaction

GENERIC = Kind.GENERIC
FOREVER = Retention(versions=1000, age_s=0, request_age_s=10**6, events=10**6)
HOUR_US = 3_600_000_000


async def rhos(store: Store, count: int, *, scope: Scope = N, start_us: int = 1_000_000, step_us: int = 1) -> None:
    """Commits `count` versions of `rho`."""
    for place in range(count):
        change = putting("rho", density(seed=place + 1))
        await store.commit(transaction(change, scope=scope, time_us=start_us + place * step_us))


# ---- commit ------------------------------------------------------------------------------------------------------------


async def test_a_commit_answers_the_version_it_made(store: Store) -> None:
    change = putting("rho", density())
    made = await store.commit(transaction(change, expected=0, time_us=77, committer="m", receipt=b"r"))
    assert (made.number, made.commit_time_us, made.receipt, made.replayed) == (1, 77, b"r", False)
    version = made.version
    assert (version.version, version.committer, version.valid, version.changed_keys) == (1, "m", True, ("rho",))
    assert [(e.key, e.certificate, e.put_version) for e in version.entries] == [("rho", change.certificate, 1)]
    assert (await store.read(N)).version == version


async def test_without_an_expected_version_the_last_writer_wins(store: Store) -> None:
    await rhos(store, 3)
    assert (await store.commit(transaction(putting("rho", density(seed=9))))).number == 4
    assert (await store.read(N)).version.entry("rho").certificate.digest == sha256(density(seed=9))


async def test_commit_time_never_runs_backwards_when_the_clock_does(store: Store) -> None:
    first = await store.commit(transaction(deleting("x"), time_us=1_000_000_000))
    second = await store.commit(transaction(deleting("x"), time_us=999_000_000))
    third = await store.commit(transaction(deleting("x"), time_us=1_000_000_001))
    assert [r.commit_time_us for r in (first, second, third)] == [1_000_000_000, 1_000_000_000, 1_000_000_001]
    page = await store.versions(N, before=None, limit=10)
    assert [v.commit_time_us for v in page.versions] == [1_000_000_001, 1_000_000_000, 1_000_000_000]


async def test_the_first_thing_wrong_is_what_is_told(store: Store) -> None:
    """Request id, then version, then target, then kind, then number of keys: each hides what comes after it."""
    await store.commit(transaction(putting("g", sketch(), GENERIC), asked=request("used")))
    wrong_kind = putting("g", density())
    too_many = [putting(f"k{i}", sketch(1, 1), GENERIC) for i in range(300)]
    with pytest.raises(RequestIdReused):
        await store.commit(transaction(wrong_kind, *too_many, expected=7, asked=request("used", b"d" * 32)))
    with pytest.raises(VersionConflict):
        await store.commit(transaction(wrong_kind, *too_many, expected=7))
    with pytest.raises(VersionConflict):
        await store.commit(transaction(RestoreVersion(99), expected=7))
    with pytest.raises(KindChanged):
        await store.commit(transaction(*too_many, wrong_kind, expected=1))
    with pytest.raises(LimitExceeded):
        await store.commit(transaction(*too_many, expected=1))
    with pytest.raises(LimitExceeded):
        await store.commit(transaction(*too_many, expected=1, validate_only=True))
    assert (await store.commit(transaction(deleting("g"), expected=1))).number == 2


async def test_the_same_content_is_answered_from_memory_whatever_the_version(store: Store) -> None:
    asked = request("r")
    first = await store.commit(transaction(putting("rho", density()), expected=0, asked=asked, receipt=b"first", time_us=5))
    await rhos(store, 2)
    again = await store.commit(transaction(putting("rho", density()), expected=0, asked=asked, receipt=b"second", time_us=9))
    assert (again.version, again.number, again.commit_time_us, again.receipt, again.replayed) == (None, 1, 5, b"first", True)
    assert first.number == 1


async def test_a_used_id_with_other_content_says_when_it_was_used(store: Store) -> None:
    await store.commit(transaction(deleting("x"), asked=request("r"), time_us=5))
    with pytest.raises(RequestIdReused) as caught:
        await store.commit(transaction(deleting("x"), asked=request("r", b"d" * 32), time_us=9))
    assert (caught.value.reused_id, caught.value.first_time_us) == ("r", 5)


async def test_ids_are_scoped_to_tenant_namespace_and_method(store: Store) -> None:
    scopes = [N, Scope("default", "m"), Scope("other", "n")]
    made = [await store.commit(transaction(deleting("x"), scope=s, asked=request("r"))) for s in scopes]
    other = await store.commit(transaction(deleting("x"), asked=request("r", method="RestoreRho")))
    assert [m.replayed for m in (*made, other)] == [False] * 4


async def test_what_it_remembers_can_be_asked_for(store: Store) -> None:
    await store.commit(transaction(deleting("x"), asked=request("r")))
    await store.commit(transaction(deleting("x"), asked=request("v"), validate_only=True))
    with pytest.raises(VersionConflict):
        await store.commit(transaction(deleting("x"), asked=request("c"), expected=7))
    assert await store.remembers(N, "CommitRho", "r")
    for scope, method, request_id in (
        (N, "CommitRho", "v"),
        (N, "CommitRho", "c"),
        (N, "RestoreRho", "r"),
        (Scope("default", "m"), "CommitRho", "r"),
        (Scope("other", "n"), "CommitRho", "r"),
    ):
        assert not await store.remembers(scope, method, request_id)


async def test_a_failed_transaction_leaves_nothing(store: Store, settings: Settings, engine: Engine) -> None:
    await store.commit(transaction(putting("g", sketch(), GENERIC)))
    before = engine.fingerprint(settings)
    with pytest.raises(KindChanged):
        await store.commit(transaction(putting("rho", density()), putting("g", density()), asked=request("r")))
    assert engine.fingerprint(settings) == before
    assert not (await store.commit(transaction(deleting("g"), asked=request("r", b"d" * 32)))).replayed


async def test_a_validation_answers_and_leaves_nothing(store: Store, settings: Settings, engine: Engine) -> None:
    before = engine.fingerprint(settings)
    said = await store.commit(
        transaction(putting("rho", density()), expected=0, asked=request("r"), validate_only=True, time_us=3, receipt=b"x")
    )
    assert (said.version, said.number, said.commit_time_us, said.receipt, said.replayed) == (None, 1, 3, b"x", False)
    assert engine.fingerprint(settings) == before


async def test_restoring_what_is_not_there_is_told_apart(store: Store) -> None:
    with pytest.raises(NotFound) as caught:
        await store.commit(transaction(RestoreVersion(1)))
    assert caught.value.what == "namespace"
    await rhos(store, 5)
    with pytest.raises(NotFound) as caught:
        await store.commit(transaction(RestoreVersion(6)))
    assert (caught.value.what, caught.value.names, caught.value.current) == ("version", ("6",), 5)
    while await store.compact(N, Retention(2, 0, 10**6, 10**6), 0):
        pass
    with pytest.raises(VersionCompacted) as compacted:
        await store.commit(transaction(RestoreVersion(3)))
    assert (compacted.value.version, compacted.value.oldest, compacted.value.current) == (3, 4, 5)


async def test_a_version_in_the_gap_before_last_valid_is_compacted_too(store: Store) -> None:
    """Only versions that exist can be restored, also where an older one was kept because it is the newest valid one."""
    await rhos(store, 1)
    for _ in range(5):
        await store.commit(transaction(putting("rho", with_eigenvalue(-0.1), valid=False)))
    while await store.compact(N, Retention(2, 0, 10**6, 10**6), 0):
        pass
    for gone in (2, 3, 4):
        with pytest.raises(VersionCompacted) as caught:
            await store.commit(transaction(RestoreVersion(gone)))
        assert caught.value.oldest == 1
        with pytest.raises(VersionCompacted):
            await store.read(N, number=gone)
    assert (await store.commit(transaction(RestoreVersion(1)))).version.restored_version == 1


# ---- what is read ------------------------------------------------------------------------------------------------------


async def test_a_reading_brings_the_numbers_that_are_not_had(store: Store) -> None:
    a, b = putting("a", sketch(seed=1), GENERIC), putting("b", sketch(seed=2), GENERIC)
    await store.commit(transaction(a, b))
    da, db = a.certificate.digest, b.certificate.digest
    both = await store.read(N)
    assert {d: bytes(n) for d, n in both.numbers.items()} == {da: sketch(seed=1).tobytes(), db: sketch(seed=2).tobytes()}
    assert (await store.read(N, have=[da])).numbers.keys() == {db}
    assert (await store.read(N, keys=["a"])).numbers.keys() == {da}
    assert (await store.read(N, keys=["a"], have=[da])).numbers == {}
    assert (await store.read(N, numbers=False)).numbers == {}
    assert [e.key for e in (await store.read(N, numbers=False)).version.entries] == ["a", "b"]


async def test_keys_that_a_version_does_not_hold_are_left_out(store: Store) -> None:
    await rhos(store, 1)
    assert (await store.read(N, keys=["absent", "rho"])).numbers.keys() == {sha256(density(seed=1))}
    assert (await store.read(N, keys=["absent"])).numbers == {}


async def test_two_keys_with_the_same_numbers_bring_them_once(store: Store) -> None:
    await store.commit(transaction(putting("a", density()), putting("b", density())))
    reading = await store.read(N)
    assert [e.key for e in reading.version.entries] == ["a", "b"]
    assert reading.numbers.keys() == {sha256(density())}


async def test_a_reading_says_the_newest_and_the_oldest(store: Store) -> None:
    await rhos(store, 4)
    while await store.compact(N, Retention(3, 0, 10**6, 10**6), 0):
        pass
    reading = await store.read(N, number=3)
    assert (reading.version.version, reading.newest, reading.oldest) == (3, 4, 2)


async def test_rotten_numbers_are_told_with_both_digests(store: Store, settings: Settings, engine: Engine) -> None:
    await store.commit(transaction(putting("rho", density()), putting("g", sketch(), GENERIC)))
    engine.corrupt(settings, N, 1, "rho")
    with pytest.raises(RhoCorrupt) as caught:
        await store.read(N)
    assert (caught.value.key, caught.value.expected_digest) == ("rho", sha256(density()).hex())
    assert (await store.read(N, keys=["g"])).numbers.keys() == {sha256(sketch())}
    assert (await store.read(N, have=[sha256(density())])).numbers.keys() == {sha256(sketch())}


async def test_peek_says_the_version_at_once(store: Store, settings: Settings, engine: Engine) -> None:
    """Or that it cannot, where a network is between."""

    def peeks(number: int) -> int | None:
        return number if engine.peeks else None

    assert store.peeks is engine.peeks
    assert store.peek(N) == peeks(0)
    await rhos(store, 3)
    assert (store.peek(N), store.peek(Scope("other", "n"))) == (peeks(3), peeks(0))
    with engine.busy(settings):
        assert store.peek(N) == peeks(3)
    with engine.unplugged(settings):
        assert store.peek(N) is None
    assert store.peek(N) == peeks(3)


async def test_versions_are_told_below_a_number(store: Store) -> None:
    await rhos(store, 5)
    page = await store.versions(N, before=None, limit=2)
    assert ([v.version for v in page.versions], page.newest, page.oldest) == ([5, 4], 5, 1)
    assert [v.version for v in (await store.versions(N, before=4, limit=9)).versions] == [3, 2, 1]
    assert (await store.versions(N, before=1, limit=9)).versions == ()
    with pytest.raises(NotFound):
        await store.versions(Scope("default", "absent"), before=None, limit=1)


async def test_heads_come_by_tenant_and_name_and_page_by_page(store: Store) -> None:
    scopes = [Scope("a", "z"), Scope("b", ""), Scope("b", "a"), Scope("b", "ab"), Scope("é", "n")]
    for scope in reversed(scopes):
        await rhos(store, 2, scope=scope)
    found = await store.heads(after=None, limit=10)
    assert [scope for scope, _ in found] == scopes
    assert {v.version for _, v in found} == {2}
    assert [s for s, _ in await store.heads(after=scopes[1], limit=2)] == scopes[2:4]
    assert await store.heads(after=scopes[-1], limit=2) == []


# ---- events ------------------------------------------------------------------------------------------------------------


async def test_every_commit_has_its_event_and_nothing_else_has(store: Store) -> None:
    await store.commit(transaction(deleting("x"), asked=request("r"), time_us=5))
    await store.commit(transaction(deleting("x"), asked=request("r"), time_us=6))
    await store.commit(transaction(deleting("x"), validate_only=True))
    with pytest.raises(VersionConflict):
        await store.commit(transaction(deleting("x"), expected=9))
    await store.commit(transaction(RestoreVersion(1), time_us=7))
    found = await store.events(after=0, limit=10)
    assert [(e.scope, e.topic, e.version, e.time_us, e.payload) for e in found] == [
        (N, "rho.status", 1, 5, {"namespace": "n"}),
        (N, "rho.status", 2, 7, {"namespace": "n"}),
    ]
    assert found[0].event_id < found[1].event_id
    assert list(await store.events(after=found[0].event_id, limit=10)) == [found[1]]
    assert len(await store.events(after=0, limit=1)) == 1


async def test_old_events_go_and_their_ids_are_never_used_again(store: Store) -> None:
    await rhos(store, 6)
    last = (await store.events(after=0, limit=10))[-1].event_id
    while await store.forget(Retention(1000, 0, 10**6, events=1), 0):
        pass
    assert [e.event_id for e in await store.events(after=0, limit=10)] == [last]
    await rhos(store, 1)
    assert (await store.events(after=last, limit=10))[0].event_id > last


# ---- retention ---------------------------------------------------------------------------------------------------------


async def test_compaction_takes_a_few_at_a_time_the_oldest_first(store: Store) -> None:
    await rhos(store, 44)
    keep = Retention(4, 0, 10**6, 10**6)
    removed, oldest = [], []
    while count := await store.compact(N, keep, 0):
        removed.append(count)
        oldest.append((await store.versions(N, before=None, limit=1)).oldest)
    assert sum(removed) == 40
    assert len(removed) > 1
    assert oldest == sorted(oldest)
    assert [v.version for v in (await store.versions(N, before=None, limit=99)).versions] == [44, 43, 42, 41]


async def test_versions_go_by_age_but_never_the_head(store: Store) -> None:
    await rhos(store, 5, start_us=0, step_us=HOUR_US)
    keep = Retention(100, 3600, 10**6, 10**6)
    while await store.compact(N, keep, now_us=4 * HOUR_US):
        pass
    assert [v.version for v in (await store.versions(N, before=None, limit=99)).versions] == [5, 4]
    while await store.compact(N, keep, now_us=400 * HOUR_US):
        pass
    assert [v.version for v in (await store.versions(N, before=None, limit=99)).versions] == [5]


async def test_age_zero_means_that_age_does_not_matter(store: Store) -> None:
    await rhos(store, 3, start_us=0)
    assert await store.compact(N, FOREVER, now_us=10**15) == 0


async def test_compacting_a_namespace_that_never_was_does_nothing(store: Store) -> None:
    assert await store.compact(N, FOREVER, 0) == 0


async def test_numbers_shared_with_a_kept_version_stay(store: Store, settings: Settings, engine: Engine) -> None:
    await store.commit(transaction(putting("g", sketch(), GENERIC), putting("rho", density())))
    await rhos(store, 4)
    while await store.compact(N, Retention(1, 0, 10**6, 10**6), 0):
        pass
    assert (await store.read(N)).numbers.keys() == {sha256(sketch()), sha256(density(seed=4))}
    assert engine.bodies(settings) == 2


async def test_requests_are_forgotten_after_their_time_and_not_before(store: Store) -> None:
    asked = request("r")
    await store.commit(transaction(deleting("x"), asked=asked, time_us=0))
    keep = Retention(1000, 0, request_age_s=86_400, events=10**6)
    assert await store.forget(keep, now_us=86_400_000_000) == 0
    assert (await store.commit(transaction(deleting("x"), asked=asked))).replayed
    assert await store.forget(keep, now_us=86_400_000_001) == 1
    assert not (await store.commit(transaction(deleting("x"), asked=asked))).replayed


# ---- life --------------------------------------------------------------------------------------------------------------


async def test_it_says_what_it_is_while_it_works(store: Store, settings: Settings, engine: Engine) -> None:
    assert await store.check()
    with engine.unplugged(settings), pytest.raises(StoreUnavailable):
        await store.check()
    assert await store.check()
    assert store.name == engine.store


async def test_everything_is_unavailable_when_the_store_is(store: Store, settings: Settings, engine: Engine) -> None:
    await rhos(store, 1)
    with engine.unplugged(settings):
        for question in (
            lambda: store.read(N),
            lambda: store.versions(N, before=None, limit=1),
            lambda: store.heads(after=None, limit=1),
            lambda: store.events(after=0, limit=1),
            lambda: store.compact(N, FOREVER, 0),
            lambda: store.forget(FOREVER, 0),
            lambda: store.commit(transaction(deleting("x"))),
        ):
            with pytest.raises(StoreUnavailable):
                await question()
    assert (await store.read(N)).version.version == 1


async def test_a_closed_store_is_unavailable_and_may_be_closed_again(settings: Settings) -> None:
    store = App(settings).store
    await store.open()
    await store.close()
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.read(N)


async def test_what_was_committed_is_there_when_it_is_opened_again(settings: Settings) -> None:
    for turn in range(3):
        store = App(settings).store
        await store.open()
        heads = await store.heads(after=None, limit=1)
        assert [v.version for _, v in heads] == ([turn] if turn else [])
        await rhos(store, 1)
        await store.close()
