"""SIGKILL at random moments while prunes are ordered and undone: each is done once, and audited once, whoever asks again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from typing import Any

import grpc
import pytest

from sfm_grpc.errors import StoreUnavailable
from sfm_grpc.settings import Settings
from tests.conftest import Spawn
from tests.support.memories import Memories, put_of
from tests.support.processes import ServerProcess
from tests.support.prunes import Prunes, check_chain
from tests.support.servers import store_of

KILLS, ORDERS, KEYS_AT_ONCE = 6, 60, 5

pytestmark = [pytest.mark.engines("sqlite", "postgres"), pytest.mark.timeout(300)]


def keys_of(order: int) -> list[str]:
    return [f"o{order:03}/{i}" for i in range(KEYS_AT_ONCE)]


async def killed_soon(server: ServerProcess, rng: random.Random) -> None:
    await asyncio.sleep(rng.uniform(0.02, 0.25))
    server.kill()


async def order_until_it_dies(prunes: Prunes, answered: dict[int, Any]) -> None:
    """Asks for every order that was not answered, each by its own request id; every third by a plan, every fourth is undone."""
    with contextlib.suppress(grpc.aio.AioRpcError, StoreUnavailable):
        for order in range(ORDERS):
            if order in answered:
                continue
            if order % 3:
                done = await prunes.apply(*keys_of(order), request_id=f"apply {order}")
            else:
                plan = (await prunes.plan(*keys_of(order), request_id=f"plan {order}")).plan
                done = await prunes.apply_plan(plan.plan_id, request_id=f"apply {order}")
            if order % 4 == 0:
                await prunes.undo(done.audit.number, request_id=f"undo {order}")
            answered[order] = done.audit


async def test_each_order_is_applied_once_and_audited_once(spawn: Spawn, settings: Settings) -> None:
    told, rng = store_of(settings), random.Random(7)
    answered: dict[int, Any] = {}
    server = await spawn().start(**told)
    async with server.channel() as channel:
        memories = Memories(channel)
        for order in range(ORDERS):
            await memories.puts(*(put_of(key, {"key": key}) for key in keys_of(order)))
        await memories.puts(*(put_of(f"stays/{i}") for i in range(1_000)))
    for kill in range(KILLS + 1):
        async with server.channel() as channel:
            killing = asyncio.create_task(killed_soon(server, rng)) if kill < KILLS else None
            await order_until_it_dies(Prunes(channel), answered)
            if killing is not None:
                await killing
        if kill < KILLS:
            await server.ended()
            server = await spawn().start(**told)
    assert set(answered) == set(range(ORDERS))
    async with server.channel() as channel:
        prunes, memories = Prunes(channel), Memories(channel)
        audits = await prunes.audits(page_size=1_000)
        check_chain(audits)
        facts = [json.loads(audit.record) for audit in audits]
        assert sorted(f["request_id"] for f in facts if f["action"] == "apply") == sorted(f"apply {n}" for n in range(ORDERS))
        assert sorted(f["request_id"] for f in facts if f["action"] == "undo") == sorted(f"undo {n}" for n in range(0, ORDERS, 4))
        assert {f["memories"] for f in facts} == {KEYS_AT_ONCE}
        for order, audit in answered.items():
            assert audits[audit.number - 1] == audit, order
        left = {key for order in range(0, ORDERS, 4) for key in keys_of(order)} | {f"stays/{i}" for i in range(1_000)}
        assert set(await memories.keys(page_size=1_000)) == left
