"""The typed client's prunes, blocking and asyncio, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from sfm_grpc.client import (
    AsyncClient,
    Client,
    Factor,
    InvalidRequest,
    MemoryLimit,
    MemoryPut,
    NotFound,
    PruneConfirmationRequired,
    PruneNotUndoable,
    PrunePlanSpent,
    PrunePlanStale,
    PruneTokenInvalid,
    QuotaExceeded,
    RequestIdReused,
    RhoNotPsd,
    VersionConflict,
)
from tests.contract.test_memory_client import Threaded
from tests.support.matrices import density
from tests.support.servers import Server, until

pytestmark = [pytest.mark.engines("sqlite", "postgres"), pytest.mark.asyncio(loop_scope="module")]

KEYS = [f"k{n:02}" for n in range(20)]


@pytest_asyncio.fixture(params=["sync", "asyncio"], loop_scope="module")
async def client(request: pytest.FixtureRequest, shared_server: Server, tenant: str) -> AsyncIterator[Any]:
    if request.param == "sync":
        with Client(shared_server.app.address, name="test", tenant=tenant) as blocking:
            yield Threaded(blocking)
    else:
        async with AsyncClient(shared_server.app.address, name="test", tenant=tenant) as client:
            yield client


@pytest_asyncio.fixture(loop_scope="module")
async def namespace(client: Any) -> Any:
    """Twenty memories, the first of them least important."""
    made = client.namespace("n")
    await made.memories.put_many([MemoryPut(key, {"n": n}, importance=n) for n, key in enumerate(KEYS)])
    return made


async def all_of(listed: AsyncIterator[Any]) -> list[Any]:
    return [each async for each in listed]


async def keys_of(namespace: Any) -> list[str]:
    return [memory.key for memory in await all_of(namespace.memories.list())]


async def test_a_plan_is_applied_once(client: Any, namespace: Any) -> None:
    prunes = namespace.prunes
    plan = await prunes.plan(["k03", "k01", "k03", "never"])
    assert (plan.namespace, plan.source, plan.committer, plan.state) == ("n", "call", "test", "waiting")
    assert (plan.memories, plan.memories_before, plan.sample_keys) == (2, 20, ("k03", "k01"))
    assert (plan.unknown, plan.unknown_keys, plan.duplicates) == (1, ("never",), 1)
    assert (plan.needs_confirmation, plan.confirm_token) == (False, "")
    assert plan.expire_time - plan.create_time == timedelta(days=1)
    assert await prunes.get_plan(plan.plan_id) == plan
    done = await prunes.apply(plan=plan, request_id="r")
    assert (done.audit.number, done.audit.plan_id, done.audit.memories, done.audit.skipped) == (1, plan.plan_id, 2, 1)
    assert (done.unknown_keys, done.version, done.replayed) == (("never",), 0, False)
    assert done.undo_until == done.audit.time + timedelta(days=1)
    again = await prunes.apply(plan_id=plan.plan_id, request_id="r")
    assert (again.replayed, again.audit, again.undo_until) == (True, done.audit, done.undo_until)
    with pytest.raises(PrunePlanSpent):
        await prunes.apply(plan=plan)
    assert await keys_of(namespace) == [key for key in KEYS if key not in ("k01", "k03")]
    waiting = await prunes.plan("k00")
    assert [p.plan_id for p in await all_of(client.prune_plans(page_size=1))] == [waiting.plan_id, plan.plan_id]
    assert [p.state for p in await all_of(prunes.plans(state="applied"))] == ["applied"]


async def test_a_token_is_said_and_is_ones_own(shared_server: Server, tenant: str, namespace: Any) -> None:
    prunes = namespace.prunes
    plan = await prunes.plan(keep=5, request_id="p")
    assert [(g.name, g.value, g.bound) for g in plan.guards if g.tripped] == [("prune_percent_max", 75.0, 20.0)]
    assert await prunes.plan(keep=5, request_id="p") == plan
    with pytest.raises(RequestIdReused):
        await prunes.plan(keep=6, request_id="p")
    with pytest.raises(PruneConfirmationRequired) as caught:
        await prunes.apply(plan=plan)
    assert (caught.value.plan_id, caught.value.memories, caught.value.memories_before) == (plan.plan_id, 15, 20)
    async with AsyncClient(shared_server.app.address, name="another", tenant=tenant) as other:
        theirs = other.namespace("n").prunes
        with pytest.raises(PruneTokenInvalid):
            await theirs.apply(plan=plan, confirm_token=plan.confirm_token)
        told = await theirs.get_plan(plan.plan_id)
        assert told.confirm_token not in ("", plan.confirm_token)
        await theirs.apply(plan=plan, confirm_token=told.confirm_token)
    assert await keys_of(namespace) == KEYS[15:]


async def test_what_cannot_be_done_is_told(namespace: Any) -> None:
    prunes = namespace.prunes
    plan = await prunes.plan(["k00", "k01"])
    await namespace.memories.delete("k01")
    with pytest.raises(PrunePlanStale) as stale:
        await prunes.apply(plan=plan)
    assert (stale.value.changed, stale.value.names) == (1, ("k01",))
    with pytest.raises(PruneConfirmationRequired):
        await prunes.apply(keys=KEYS)
    for ask in (lambda: prunes.get_plan("none"), lambda: prunes.apply(plan_id="none"), lambda: prunes.undo(1)):
        with pytest.raises(NotFound):
            await ask()
    with pytest.raises(InvalidRequest, match="is empty"):
        await prunes.plan([])
    with pytest.raises(InvalidRequest, match="confirms a plan"):
        await prunes.apply(keys="k00", confirm_token="t")
    assert await all_of(prunes.audits()) == []


async def test_matrices_go_with_it_both_or_neither(namespace: Any) -> None:
    prunes, old, new = namespace.prunes, density(300, 1), density(300, 2)
    await namespace.commit({"rho": old}, expected_version=0)
    snapshot = await namespace.read()
    with pytest.raises(RhoNotPsd):
        await prunes.apply(keys="k00", rho={"rho": 2 * old - new}, expected_version=snapshot)
    with pytest.raises(VersionConflict):
        await prunes.apply(keys="k00", rho={"rho": new}, expected_version=0)
    assert await keys_of(namespace) == KEYS
    changes = {"rho": new, "sketch": Factor(np.arange(1, 13.0).reshape(3, 4))}
    valid = await prunes.apply(keys="k00", rho=changes, expected_version=snapshot, validate_only=True)
    assert (valid.version, (await namespace.read()).version) == (2, 1)
    done = await prunes.apply(keys="k00", rho=changes, expected_version=snapshot, metadata={"why": "k00"}, request_id="r")
    again = await prunes.apply(keys="k00", rho=changes, expected_version=snapshot, metadata={"why": "k00"}, request_id="r")
    assert (done.version, again.version, again.replayed) == (2, 2, True)
    after = await namespace.read()
    assert (after.version, after["rho"].tobytes()) == (2, new.tobytes())
    assert after["sketch"].tolist() == np.arange(1, 13.0).reshape(3, 4).tolist()
    (newest, _) = await all_of(namespace.versions())
    assert (dict(newest.metadata), newest.committer) == ({"why": "k00"}, "test")
    assert await keys_of(namespace) == KEYS[1:]


async def test_an_undoing_and_the_chain(namespace: Any) -> None:
    prunes = namespace.prunes
    assert (await prunes.verify_audits()).audits == 0
    await prunes.apply(keys=["k00", "k01", "k02"])
    await namespace.memories.put("k01", "new")
    assert (await prunes.undo(1, validate_only=True)).audit.memories == 2
    undone = await prunes.undo(1, request_id="u")
    assert (undone.audit.action, undone.audit.undo_of, undone.audit.memories, undone.skipped_keys) == ("undo", 1, 2, ("k01",))
    assert (await prunes.undo(1, request_id="u")).replayed
    with pytest.raises(PruneNotUndoable) as caught:
        await prunes.undo(1)
    assert caught.value.undone_by == 2
    for _ in range(30):
        await prunes.apply(keys="k19")
        await namespace.memories.undelete("k19")
    audits = await all_of(prunes.audits(page_size=7))
    assert [a.number for a in audits] == [*range(1, 33)]
    assert [a.number for a in await all_of(prunes.audits(after=30))] == [31, 32]
    report = await prunes.verify_audits()
    assert (report.ok, report.audits, report.last_hash) == (True, 32, audits[-1].hash)


async def test_a_limit(client: Any, namespace: Any) -> None:
    prunes = namespace.prunes
    with pytest.raises(NotFound):
        await client.namespace("nowhere").prunes.limit()
    assert await prunes.limit() == MemoryLimit(0, "refuse", 20)
    assert await prunes.set_limit(20) == MemoryLimit(20, "refuse", 20)
    with pytest.raises(QuotaExceeded) as caught:
        await namespace.memories.put("more", 1)
    assert (caught.value.memories, caught.value.memories_max) == (21, 20)
    assert await prunes.set_limit(19, "prune") == MemoryLimit(19, "prune", 20)
    await namespace.memories.put("more", 1, importance=99)

    async def pruned() -> bool:
        return bool(await keys_of(namespace) == [*KEYS[2:], "more"])

    await until(pruned)
    (audit,) = await all_of(prunes.audits())
    assert (audit.source, audit.memories) == ("limit", 2)
