"""Pruning: planned, guarded, applied once, audited once, undone to the byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from sfm.v1 import pruner_pb2 as pb
from sfm.v1 import rho_store_pb2

from sfm_grpc.errors import (
    InvalidRequest,
    LimitExceeded,
    NotFound,
    PruneConfirmationRequired,
    PruneNotUndoable,
    PrunePlanSpent,
    PrunePlanStale,
    PruneTokenInvalid,
    QuotaExceeded,
    RequestIdReused,
    RhoTrace,
    VersionConflict,
)
from tests.support.drivers import Put, update_message
from tests.support.matrices import density
from tests.support.memories import Memories, counts, put_of
from tests.support.prunes import Prunes, check_chain
from tests.support.schemas import schema_of
from tests.support.servers import Server, until

pytestmark = pytest.mark.engines("sqlite", "postgres")

WAITING, APPLIED, EXPIRED = pb.PRUNE_PLAN_STATE_WAITING, pb.PRUNE_PLAN_STATE_APPLIED, pb.PRUNE_PLAN_STATE_EXPIRED
KEYS = [f"k{i:02}" for i in range(20)]


@pytest.fixture
async def memories(server: Server) -> Memories:
    """Twenty, the first of them least important; vectors of two numbers."""
    made = Memories(server.channel)
    await made.puts(*(put_of(key, {"i": i}, importance=i, vector=[1, i + 1]) for i, key in enumerate(KEYS)))
    return made


@pytest.fixture
def prunes(memories: Memories) -> Prunes:
    return Prunes.beside(memories)


def guards(plan: pb.PrunePlan) -> dict[str, tuple[float, float, bool]]:
    return {g.name: (g.value, g.bound, g.tripped) for g in plan.guards}


async def results(server: Server) -> list[Mapping[str, Any]]:
    """What the world was told of prunes, as it is promised."""
    told = [e.payload for e in await server.app.store.events(after=0, limit=1_000) if e.topic == "prune.result"]
    for payload in told:
        schema_of("prune.result").validate(payload)
    return told


# ---- plans


async def test_a_plan_says_what_would_go_and_touches_nothing(memories: Memories, prunes: Prunes) -> None:
    before = await memories.space()
    told = await prunes.plan("k03", "k01", "k03", "never", "k00")
    plan = told.plan
    assert (plan.memories, plan.memories_before, plan.unknown, plan.duplicates) == (3, 20, 1, 1)
    assert (list(plan.sample_keys), list(plan.unknown_keys)) == (["k03", "k01", "k00"], ["never"])
    assert plan.payload_bytes == 3 * len('{"i": 3}')
    assert (plan.state, plan.source, plan.committer, plan.namespace) == (WAITING, pb.PRUNE_SOURCE_CALL, "manager", "n")
    assert guards(plan) == {
        "prune_keys_max": (3, 1000, False),
        "prune_percent_max": (15, 20, False),
        "prune_remaining_min": (17, 1, False),
    }
    assert told.confirm_token == ""
    assert await memories.space() == before
    found = await prunes.get_plan(plan.plan_id)
    assert (found.plan, found.confirm_token) == (plan, "")


async def test_the_fallback_takes_the_least_important_and_of_those_the_oldest(memories: Memories, prunes: Prunes) -> None:
    await memories.puts(put_of("old", importance=-1), put_of("b", importance=-1))
    await memories.put("expired", importance=-9, ttl_s=0.05)
    await asyncio.sleep(0.1)
    told = await prunes.plan(keep=18)
    assert list(told.plan.sample_keys) == ["b", "old", "k00", "k01"]  # put at once: by key
    assert (await prunes.plan(keep=100)).plan.memories == 0
    everything = (await prunes.plan(keep=0)).plan
    assert everything.memories == 22
    assert guards(everything)["prune_remaining_min"][2]


async def test_the_same_request_gets_the_same_plan(prunes: Prunes) -> None:
    first = await prunes.plan(*KEYS, request_id="r")
    again = await prunes.plan(*KEYS, request_id="r")
    assert again == first
    assert first.confirm_token
    with pytest.raises(RequestIdReused):
        await prunes.plan("k00", request_id="r")
    assert (await prunes.plan(*KEYS)).plan.plan_id != first.plan.plan_id


async def test_plans_are_listed_the_newest_first(memories: Memories, prunes: Prunes) -> None:
    plans = [(await prunes.plan("k00")).plan.plan_id for _ in range(5)]
    other = memories.of("other")
    await other.put("a")
    elsewhere = (await Prunes.beside(other).plan("a")).plan.plan_id
    await prunes.apply_plan(plans[1])
    page = await prunes.ask("ListPrunePlans", page_size=3)
    rest = await prunes.ask("ListPrunePlans", page_size=3, page_token=page.next_page_token)
    assert [p.plan_id for p in [*page.plans, *rest.plans]] == plans[::-1]
    assert rest.next_page_token == ""
    waiting = (await prunes.ask("ListPrunePlans", state=WAITING)).plans
    assert [p.plan_id for p in waiting] == [p for p in plans[::-1] if p != plans[1]]
    assert [p.plan_id for p in (await prunes.ask("ListPrunePlans", namespace="")).plans] == [elsewhere, *plans[::-1]]
    with pytest.raises(InvalidRequest, match="page_token"):
        await prunes.ask("ListPrunePlans", page_token=page.next_page_token, state=APPLIED)


@pytest.mark.settings(prune_plan_s=1)
async def test_a_plan_expires(prunes: Prunes) -> None:
    told = await prunes.plan(*KEYS)
    await asyncio.sleep(1.1)
    found = await prunes.get_plan(told.plan.plan_id)
    assert (found.plan.state, found.confirm_token) == (EXPIRED, "")
    assert [p.state for p in (await prunes.ask("ListPrunePlans", state=EXPIRED)).plans] == [EXPIRED]
    with pytest.raises(PrunePlanSpent, match="expired"):
        await prunes.apply_plan(told.plan.plan_id, told.confirm_token)


# ---- applying


async def test_a_plan_is_applied_once(server: Server, memories: Memories, prunes: Prunes) -> None:
    plan = (await prunes.plan("k03", "k01", "never")).plan
    done = await prunes.apply_plan(plan.plan_id, request_id="r")
    assert (done.audit.number, done.audit.action, done.audit.memories, done.audit.skipped) == (1, "apply", 2, 1)
    assert (done.audit.plan_id, done.audit.committer, list(done.unknown_keys)) == (plan.plan_id, "manager", ["never"])
    assert set(await memories.keys()) == set(KEYS) - {"k03", "k01"}
    assert counts(await memories.space())["tombstones"] == 2
    again = await prunes.apply_plan(plan.plan_id, request_id="r")
    assert (again.replayed, again.audit, again.unknown_keys) == (True, done.audit, done.unknown_keys)
    with pytest.raises(PrunePlanSpent, match="applied"):
        await prunes.apply_plan(plan.plan_id, request_id="another")
    assert (await prunes.get_plan(plan.plan_id)).plan.state == APPLIED
    check_chain(await prunes.audits())
    told = await results(server)
    assert [(t["result"], t["number"], t["memories"]) for t in told] == [("APPLIED", 1, 2)]
    assert "payload" not in done.audit.record


async def test_two_that_apply_at_once_apply_once(memories: Memories, prunes: Prunes) -> None:
    plan = (await prunes.plan("k03", "k01")).plan
    results = await asyncio.gather(*(prunes.apply_plan(plan.plan_id) for _ in range(6)), return_exceptions=True)
    done = [r for r in results if not isinstance(r, BaseException)]
    assert len(done) == 1
    assert all(isinstance(r, PrunePlanSpent) for r in results if isinstance(r, BaseException))
    assert len(await prunes.audits()) == 1
    assert len(await memories.keys()) == 18


async def test_an_order_under_the_guards_is_applied_at_once(memories: Memories, prunes: Prunes) -> None:
    done = await prunes.apply("k05", "k05", "never", "k04")
    assert (done.audit.memories, done.audit.skipped, done.audit.plan_id) == (2, 1, "")
    assert done.undo_until.seconds == done.audit.time.seconds + 86_400
    assert "k05" not in await memories.keys()
    nothing = await prunes.apply("never", "k05")
    assert (nothing.audit.number, nothing.audit.memories, list(nothing.unknown_keys)) == (2, 0, ["never", "k05"])


async def test_an_order_that_names_everything_is_refused_with_the_numbers(memories: Memories, prunes: Prunes) -> None:
    with pytest.raises(PruneConfirmationRequired, match="20 of the 20 memories") as refused:
        await prunes.apply(*KEYS)
    assert refused.value.guards == ("prune_percent_max is 20, this is 100", "prune_remaining_min is 1, this is 0")
    assert len(await memories.keys()) == 20
    assert await prunes.audits() == []
    told = await prunes.plan(*KEYS)
    with pytest.raises(PruneConfirmationRequired):
        await prunes.apply_plan(told.plan.plan_id)
    done = await prunes.apply_plan(told.plan.plan_id, told.confirm_token)
    assert done.audit.memories == 20
    assert json.loads(done.audit.record)["confirmed"] is True
    assert await memories.keys() == []


async def test_a_token_confirms_one_plan_for_one_caller_once(prunes: Prunes) -> None:
    one, two = await prunes.plan(*KEYS[:10]), await prunes.plan(*KEYS[5:])
    other = prunes.by("somebody else")
    for plan_id, token, who in (
        (one.plan.plan_id, two.confirm_token, prunes),
        (one.plan.plan_id, one.confirm_token, other),
        (one.plan.plan_id, "guessed", prunes),
        (one.plan.plan_id, "geraten: é", prunes),
    ):
        with pytest.raises(PruneTokenInvalid):
            await who.apply_plan(plan_id, token)
    theirs = (await other.get_plan(one.plan.plan_id)).confirm_token
    assert theirs not in ("", one.confirm_token)
    assert (await other.apply_plan(one.plan.plan_id, theirs)).audit.committer == "somebody else"
    with pytest.raises(PrunePlanSpent):
        await prunes.apply_plan(one.plan.plan_id, one.confirm_token)
    assert (await prunes.get_plan(one.plan.plan_id)).confirm_token == ""
    with pytest.raises(PrunePlanStale, match="5 memories"):
        await prunes.apply_plan(two.plan.plan_id, two.confirm_token)


async def test_what_changed_since_makes_a_plan_stale(memories: Memories, prunes: Prunes) -> None:
    plan = (await prunes.plan("k03", "k01")).plan
    await memories.put("new")
    await memories.put("k03", {"i": "other"})
    with pytest.raises(PrunePlanStale) as stale:
        await prunes.apply_plan(plan.plan_id)
    assert (stale.value.changed, stale.value.names) == (1, ("k03",))
    assert "k01" in await memories.keys()
    fresh = (await prunes.plan("k03", "k01")).plan
    await memories.put("newer")
    assert (await prunes.apply_plan(fresh.plan_id)).audit.memories == 2


async def test_guards_are_asked_again_when_it_is_applied(memories: Memories, prunes: Prunes) -> None:
    plan = (await prunes.plan("k03", "k01", "k02")).plan
    assert not any(tripped for *_, tripped in guards(plan).values())
    await memories.deletes(*KEYS[8:])
    with pytest.raises(PruneConfirmationRequired) as refused:
        await prunes.apply_plan(plan.plan_id)
    assert refused.value.plan_id == plan.plan_id
    token = (await prunes.get_plan(plan.plan_id)).confirm_token
    assert (await prunes.apply_plan(plan.plan_id, token)).audit.memories == 3


async def test_a_token_confirms_no_guard_that_was_not_shown(memories: Memories, prunes: Prunes) -> None:
    told = await prunes.plan(*KEYS[:10])
    assert [g.name for g in told.plan.guards if g.tripped] == ["prune_percent_max"]
    await memories.deletes(*KEYS[10:])
    with pytest.raises(PruneConfirmationRequired, match="prune_remaining_min is 1, this is 0"):
        await prunes.apply_plan(told.plan.plan_id, told.confirm_token)
    assert await memories.keys() == KEYS[:10]
    again = await prunes.get_plan(told.plan.plan_id)
    assert (await prunes.apply_plan(told.plan.plan_id, again.confirm_token)).audit.memories == 10


async def test_a_fallback_leaves_as_many_as_it_should(memories: Memories, prunes: Prunes) -> None:
    told = await prunes.plan(keep=17)
    await memories.delete("k19")
    with pytest.raises(PrunePlanStale, match="1 memory"):
        await prunes.apply_plan(told.plan.plan_id)
    assert len(await memories.keys()) == 19
    assert (await prunes.apply_plan((await prunes.plan(keep=17)).plan.plan_id)).audit.memories == 2


async def test_a_validation_prunes_nothing(memories: Memories, prunes: Prunes) -> None:
    plan = (await prunes.plan("k03")).plan
    done = await prunes.apply_plan(plan.plan_id, validate_only=True)
    assert (done.audit.number, done.audit.memories) == (1, 1)
    assert await prunes.audits() == []
    assert "k03" in await memories.keys()
    assert (await prunes.get_plan(plan.plan_id)).plan.state == WAITING


async def test_another_tenants_keys_are_unknown(memories: Memories, prunes: Prunes) -> None:
    theirs = memories.of("n", tenant="b")
    await theirs.puts(*(put_of(f"theirs{i}") for i in range(10)))
    done = await Prunes.beside(theirs).apply("k00", "k01")
    assert (done.audit.memories, done.audit.skipped) == (0, 2)
    plan = (await prunes.plan("k00")).plan
    with pytest.raises(NotFound, match="prune plan"):
        await Prunes.beside(theirs).apply_plan(plan.plan_id)
    assert len(await memories.keys()) == 20


# ---- undoing


async def test_an_undoing_brings_every_byte_back(server: Server, memories: Memories, prunes: Prunes) -> None:
    before = {key: await memories.get(key) for key in ("k03", "k01")}
    done = await prunes.apply("k03", "k01", "never")
    undone = await prunes.undo(done.audit.number, request_id="u")
    assert (undone.audit.number, undone.audit.action, undone.audit.undo_of, undone.audit.memories) == (2, "undo", 1, 2)
    assert list(undone.skipped_keys) == []
    for key, memory in before.items():
        found = await memories.get(key)
        assert found.revision > memory.revision
        for name in ("revision", "update_time"):
            found.ClearField(name)
            memory.ClearField(name)
        assert found == memory
    assert (await prunes.undo(1, request_id="u")).replayed
    assert [t["result"] for t in await results(server)] == ["APPLIED", "UNDONE"]
    with pytest.raises(PruneNotUndoable, match="undone by 2"):
        await prunes.undo(1)
    check_chain(await prunes.audits())


async def test_an_undoing_leaves_what_was_written_since(memories: Memories, prunes: Prunes) -> None:
    await memories.put("short", ttl_s=1.0)
    done = await prunes.apply("k03", "k01", "k02", "short")
    await memories.put("k01", {"i": "new"})
    await memories.purge("k02")
    await asyncio.sleep(1.05)
    undone = await prunes.undo(done.audit.number)
    assert (undone.audit.memories, sorted(undone.skipped_keys)) == (1, ["k01", "k02", "short"])
    assert (await memories.get("k01")).payload_json == '{"i": "new"}'
    assert "k03" in await memories.keys()


@pytest.mark.settings(undelete_s=1)
async def test_an_undoing_comes_too_late(server: Server, prunes: Prunes) -> None:
    done = await prunes.apply("k03")
    await asyncio.sleep(1.1)
    with pytest.raises(PruneNotUndoable, match="too long ago"):
        await prunes.undo(done.audit.number)
    now_us = done.audit.time.seconds * 1_000_000 + 3_000_000
    assert await server.app.store.prunes.forget(now_us, 0) == 1
    with pytest.raises(PruneNotUndoable, match="too long ago"):
        await prunes.undo(done.audit.number)
    with pytest.raises(NotFound, match="prune '7'"):
        await prunes.undo(7)


@pytest.mark.settings(undelete_s=2)
async def test_an_undoing_is_answered_again_when_its_window_is_over(server: Server, prunes: Prunes) -> None:
    done = await prunes.apply("k03")
    first = await prunes.undo(1, request_id="u")
    now_us = done.audit.time.seconds * 1_000_000 + 4_000_000
    assert await server.app.store.prunes.forget(now_us, 0) == 1
    again = await prunes.undo(1, request_id="u")
    assert (again.replayed, again.audit) == (True, first.audit)
    with pytest.raises(NotFound, match="prune '2'"):
        await prunes.undo(2)


# ---- what is asked wrongly


@pytest.mark.settings(prune_order_max=3)
async def test_orders_are_checked(prunes: Prunes) -> None:
    for method in (prunes.plan, prunes.apply):
        with pytest.raises(InvalidRequest, match=r"order\.keys: is empty"):
            await method()
        with pytest.raises(InvalidRequest, match=r"order\.keys\[1\]"):
            await method("a", "b\n")
        with pytest.raises(LimitExceeded, match="prune_order_max"):
            await method("a", "b", "c", "d")
    with pytest.raises(InvalidRequest, match="neither"):
        await prunes.ask("PlanPrune")
    with pytest.raises(InvalidRequest, match="neither"):
        await prunes.ask("ApplyPrune")
    with pytest.raises(InvalidRequest, match=r"fallback\.keep"):
        await prunes.plan(keep=-1)
    with pytest.raises(InvalidRequest, match="confirm_token"):
        await prunes.apply("a", confirm_token="x")
    with pytest.raises(InvalidRequest, match="number"):
        await prunes.undo(0)
    absent: Any = Prunes(prunes._channel, "absent")
    for ask in (absent.plan("a"), absent.apply("a"), absent.undo(1), absent.ask("GetMemoryLimit")):
        with pytest.raises(NotFound):
            await ask


# ---- with the matrices that no longer contain what goes


def rho(seed: int, **how: Any) -> pb.PruneCommit:
    return pb.PruneCommit(updates=[update_message(Put("rho", density(seed=seed)))], **how)


async def test_a_prune_and_its_matrices_are_both_or_neither(server: Server, memories: Memories, prunes: Prunes) -> None:
    done = await prunes.apply("k03", "k01", commit=rho(1, expected_version=0), request_id="r")
    assert (done.audit.version, done.audit.memories) == (1, 2)
    read = await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n"))
    assert read.version == 1
    again = await prunes.apply("k03", "k01", commit=rho(1, expected_version=0), request_id="r")
    assert (again.replayed, again.audit) == (True, done.audit)
    with pytest.raises(RequestIdReused):
        await prunes.apply("k03", "k01", commit=rho(2, expected_version=0), request_id="r")
    with pytest.raises(VersionConflict):
        await prunes.apply("k05", commit=rho(2, expected_version=0))
    wrong = pb.PruneCommit(expected_version=1, updates=[update_message(Put("rho", 2 * density(seed=3)))])
    with pytest.raises(RhoTrace):
        await prunes.apply("k05", commit=wrong)
    assert "k05" in await memories.keys()
    with pytest.raises(PruneConfirmationRequired):
        await prunes.apply(*KEYS, commit=rho(2, expected_version=1))
    assert (await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n"))).version == 1
    told = await prunes.plan(*KEYS[8:])
    done = await prunes.apply_plan(told.plan.plan_id, told.confirm_token, commit=rho(2, expected_version=1))
    assert (done.audit.version, done.audit.memories) == (2, 12)
    topics = [e.topic for e in await server.app.store.events(after=0, limit=100)]
    assert topics[-3:] == ["rho.status", "memory.event", "prune.result"]
    check_chain(await prunes.audits())


# ---- limits


async def set_limit(prunes: Prunes, memories_max: int, policy: int = pb.MEMORY_LIMIT_POLICY_REFUSE) -> pb.MemoryLimit:
    return (await prunes.ask("SetMemoryLimit", memories_max=memories_max, policy=policy)).limit


async def test_a_limit_refuses_what_would_be_beyond(memories: Memories, prunes: Prunes) -> None:
    limit = await set_limit(prunes, 21)
    assert (limit.memories_max, limit.policy, limit.memories) == (21, pb.MEMORY_LIMIT_POLICY_REFUSE, 20)
    assert (await prunes.ask("GetMemoryLimit")).limit == limit
    await memories.put("one more")
    await memories.put("k00", {"i": "again"})
    with pytest.raises(QuotaExceeded, match="may have 21 memories, and would have 23") as refused:
        await memories.puts(put_of("two"), put_of("three"))
    assert (refused.value.memories, refused.value.memories_max) == (23, 21)
    await memories.puts(put_of("k01", {}), put_of("k02", {}))
    await memories.delete("k05")
    await memories.put("two")
    with pytest.raises(QuotaExceeded):
        await memories.undelete("k05")
    assert (await set_limit(prunes, 0)).memories_max == 0
    await memories.undelete("k05")
    with pytest.raises(InvalidRequest, match="memories_max"):
        await set_limit(prunes, -1)
    with pytest.raises(InvalidRequest, match="policy"):
        await set_limit(prunes, 1, 7)


async def test_a_limit_counts_the_living(memories: Memories, prunes: Prunes) -> None:
    await set_limit(prunes, 21)
    await memories.put("short", ttl_s=0.6)
    with pytest.raises(QuotaExceeded):
        await memories.put("one more")
    await asyncio.sleep(0.65)
    await memories.put("one more")
    assert (await prunes.ask("GetMemoryLimit")).limit.memories == 21


async def test_a_limit_prunes_the_least_important_a_little_later(server: Server, memories: Memories, prunes: Prunes) -> None:
    await set_limit(prunes, 20, pb.MEMORY_LIMIT_POLICY_PRUNE)
    await memories.puts(put_of("new", importance=50), put_of("newer", importance=51))
    await until(prunes.audits)
    assert set(await memories.keys()) == {*KEYS[2:], "new", "newer"}
    [audit] = await prunes.audits()
    assert (audit.source, audit.committer, audit.memories) == (pb.PRUNE_SOURCE_LIMIT, "memory-limit", 2)
    assert (await prunes.undo(1)).audit.memories == 2


async def test_what_is_over_a_guard_waits_as_one_plan(server: Server, memories: Memories, prunes: Prunes) -> None:
    await set_limit(prunes, 10, pb.MEMORY_LIMIT_POLICY_PRUNE)

    async def waiting() -> list[pb.PrunePlan]:
        return list((await prunes.ask("ListPrunePlans", state=WAITING)).plans)

    await until(waiting)
    for _ in range(3):
        assert await server.app.prune_limits.enforce() == 0
    await memories.put("k00", {"i": "again"}, importance=0)
    for _ in range(3):
        assert await server.app.prune_limits.enforce() == 0
    [plan] = await waiting()
    assert (plan.source, plan.memories) == (pb.PRUNE_SOURCE_LIMIT, 10)
    await set_limit(prunes, 18, pb.MEMORY_LIMIT_POLICY_PRUNE)
    await until(prunes.audits)
    assert await memories.keys() == KEYS[2:]
    told = await results(server)
    assert [(t["result"], t["plan_id"]) for t in told] == [("AWAITING_CONFIRMATION", plan.plan_id), ("APPLIED", "")]
    with pytest.raises(PrunePlanStale):
        await prunes.apply_plan(plan.plan_id, (await prunes.get_plan(plan.plan_id)).confirm_token)


async def test_very_many_are_pruned_and_told_in_parts(server: Server, memories: Memories, prunes: Prunes) -> None:
    many = [f"m{i:05}" for i in range(2_500)]
    for start in range(0, len(many), 500):
        await memories.puts(*(put_of(key) for key in many[start : start + 500]))
    told = await prunes.plan(*many)
    done = await prunes.apply_plan(told.plan.plan_id, told.confirm_token)
    assert done.audit.memories == 2_500
    events = (await server.app.store.events(after=0, limit=100))[-4:]
    assert [(e.topic, len(e.payload.get("changes", ()))) for e in events] == [  # type: ignore[arg-type]
        ("memory.event", 1_000),
        ("memory.event", 1_000),
        ("memory.event", 500),
        ("prune.result", 0),
    ]
    assert (await prunes.undo(done.audit.number)).audit.memories == 2_500
    assert len(await memories.keys()) == 2_520
