"""Orders that come by Kafka: applied once, or waiting, or put aside with the reason; in order, and none is passed over."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from sfm.v1 import pruner_pb2 as pb
from sfm.v1 import rho_store_pb2

from sfm_grpc.coordinator.presence import Component
from tests.conftest import Serve
from tests.support.engines import Engine
from tests.support.kafka import Arrived, arrived
from tests.support.matrices import density
from tests.support.memories import Memories, put_of
from tests.support.orders import HURRY, Letter, Orders, commit_part, order_of
from tests.support.prunes import Prunes, check_chain
from tests.support.schemas import schema_of
from tests.support.servers import Server, settings_for, until
from tests.support.services.kafka_fixtures import Kafka

pytestmark = pytest.mark.engines("sqlite", "postgres")

KEYS = [f"k{i:02}" for i in range(40)]
# Joining a group takes a mock cluster three seconds, and again when somebody comes or goes.
SOON_S = 40.0


async def remember(server: Server, namespace: str = "n") -> Memories:
    memories = Memories(server.channel, namespace)
    await memories.puts(*(put_of(key, {"i": i}) for i, key in enumerate(KEYS)))
    return memories


async def done(orders: Orders) -> None:
    await until(lambda: asyncio.to_thread(orders.all_done), within_s=SOON_S)


async def letters(orders: Orders, count: int) -> list[Letter]:
    """So many, in the order of the messages that were refused."""
    found = await asyncio.to_thread(orders.letters, lambda found: len(found) >= count)
    return sorted(found, key=lambda letter: int(letter.headers["sfm-offset"]))


def component(server: Server) -> Component:
    return next(c for c in server.app.truth.report().components if c.name == "kafka-orders")


async def outcomes(server: Server) -> dict[str, float]:
    names = ("applied", "known", "waiting", "refused")
    found = {name: server.app.metrics.orders.done.labels(name)._value.get() for name in names}
    return {name: count for name, count in found.items() if count}


@pytest.fixture
async def started(engine: Engine, kafka: Kafka, serve: Serve, tmp_path: Any) -> Server:
    """A server on each engine and each kind of Kafka."""
    return await serve(settings_for(**engine.settings(tmp_path / "data"), **kafka.settings, kafka_options=HURRY))


# ---- what becomes of orders


async def test_an_order_that_comes_five_times_is_applied_and_audited_once(started: Server) -> None:
    memories, orders = await remember(started), Orders(started.settings)
    first, second = order_of("o1", "k03", "k01", "never", committer="manager"), order_of("o2", "k05")
    orders.send(first, first, second, first, second, first, first)
    await done(orders)
    assert set(await memories.keys()) == set(KEYS) - {"k03", "k01", "k05"}
    audits = await Prunes.beside(memories).audits()
    check_chain(audits)
    assert [(a.order_id, a.memories, a.skipped, a.committer) for a in audits] == [
        ("o1", 2, 1, "manager"),
        ("o2", 1, 0, ""),
    ]
    assert {a.source for a in audits} == {pb.PRUNE_SOURCE_MESSAGE}
    assert await outcomes(started) == {"applied": 2, "known": 5}
    await until(lambda: is_ok(started))
    assert f"as group {started.settings.kafka_group}" in component(started).detail
    told = await told_results(started, 2)
    assert [(t["result"], t["order_id"], t["number"]) for t in told] == [("APPLIED", "o1", 1), ("APPLIED", "o2", 2)]


async def told_results(server: Server, count: int) -> list[dict[str, Any]]:
    """What Kafka was told of prunes, as it is promised."""

    def enough(found: Any) -> bool:
        return len({a.event_id for a in found}) >= count

    topic = server.settings.kafka_topic_prune_result
    found: list[Arrived] = await asyncio.to_thread(arrived, server.settings.kafka_bootstrap, [topic], enough)
    for each in found:
        schema_of("prune.result").validate(each.value)
    return [each.value for each in {a.event_id: a for a in found}.values()]


def is_ok(server: Server) -> bool:
    return component(server).ok


async def test_what_is_over_a_guard_waits_and_is_confirmed_by_a_call(started: Server) -> None:
    memories, orders = await remember(started), Orders(started.settings)
    large = order_of("large", *KEYS[:30], committer="manager")
    orders.send(large, large, large | {"committer": "somebody else"}, order_of("small", "k39"))
    await done(orders)
    prunes = Prunes.beside(memories, client="operator")
    [plan] = (await prunes.ask("ListPrunePlans")).plans
    assert (plan.order_id, plan.memories, plan.committer, plan.source) == ("large", 30, "manager", pb.PRUNE_SOURCE_MESSAGE)
    assert (await outcomes(started)) == {"waiting": 1, "known": 2, "applied": 1}
    token = (await prunes.get_plan(plan.plan_id)).confirm_token
    assert (await prunes.apply_plan(plan.plan_id, token)).audit.memories == 30
    # Once more, after it was confirmed: it is neither applied nor planned again, although it is under the guards now.
    orders.send(large)
    await done(orders)
    audits = await prunes.audits()
    check_chain(audits)
    assert [(a.order_id, a.committer, a.memories) for a in audits] == [("small", "", 1), ("large", "operator", 30)]
    told = await told_results(started, 3)
    assert [(t["result"], t["order_id"]) for t in told] == [
        ("AWAITING_CONFIRMATION", "large"),
        ("APPLIED", "small"),
        ("APPLIED", "large"),
    ]
    assert told[0]["plan_id"] == plan.plan_id


async def test_an_order_and_its_matrices_are_both_or_neither(started: Server) -> None:
    memories, orders = await remember(started), Orders(started.settings)
    one = order_of("o1", "k01", commit=commit_part(0, density(seed=1), metadata={"why": "k01"}))
    orders.send(
        one,
        one,
        order_of("late", "k02", commit=commit_part(0, density(seed=2))),
        order_of("wrong", "k02", commit=commit_part(1, 2 * density(seed=2))),
        order_of("large", *KEYS[:30], commit=commit_part(1, density(seed=2))),
        order_of("o1", "k01"),
        order_of("o2", "k03", commit=commit_part(1, density(seed=3))),
    )
    await done(orders)
    refused = await letters(orders, 4)
    assert [(json.loads(r.value or b"")["order_id"], r.headers["sfm-reason"]) for r in refused] == [
        ("late", "VERSION_CONFLICT"),
        ("wrong", "RHO_TRACE"),
        ("large", "PRUNE_CONFIRMATION_REQUIRED"),
        ("o1", "REQUEST_ID_REUSED"),
    ]
    assert "matrices" in refused[2].headers["sfm-problem"]
    assert (await Prunes.beside(memories).ask("ListPrunePlans")).plans == []
    assert set(await memories.keys()) == set(KEYS) - {"k01", "k03"}
    audits = await Prunes.beside(memories).audits()
    check_chain(audits)
    assert [(a.order_id, a.version) for a in audits] == [("o1", 1), ("o2", 2)]
    assert (await started.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n"))).version == 2


POISON: list[tuple[bytes | dict[str, Any] | None, str, str]] = [
    (None, "INVALID_REQUEST", "value"),
    (b"", "INVALID_REQUEST", "value"),
    (b"\x00\xff\xfe", "INVALID_REQUEST", "value"),
    (b"[" * 100_000, "INVALID_REQUEST", "value"),
    (b'{"order_id": "\\ud800"}', "INVALID_REQUEST", "value"),
    ({}, "INVALID_REQUEST", "order_id"),
    (order_of("", "k00"), "INVALID_REQUEST", "order_id"),
    (order_of("x" * 65, "k00"), "INVALID_REQUEST", "request_id"),
    (order_of("o"), "INVALID_REQUEST", "keys"),
    (order_of("o", "a\n"), "INVALID_REQUEST", "keys[0]"),
    (order_of("o", "k00", surprise=1), "INVALID_REQUEST", "surprise"),
    (order_of("o", "k00", **{"x" * 5_000: 1}), "INVALID_REQUEST", "x" * 1_000),
    (order_of("o", "k00") | {"tenant": ""}, "INVALID_REQUEST", "tenant"),
    (order_of("o", "k00") | {"namespace": "absent"}, "NOT_FOUND", ""),
    (order_of("o", *KEYS, *KEYS), "LIMIT_EXCEEDED", "order.keys"),
    (order_of("o", "k00", commit={"expected_version": 0, "updates": []}), "INVALID_REQUEST", "commit.updates"),
    (
        order_of("o", "k00", commit={"expected_version": 0, "updates": [{"key": "rho", "envelope": "AAAA"}]}),
        "MATRIX_MALFORMED",
        "commit.updates[0].put",
    ),
]


async def test_poison_is_put_aside_with_the_reason_and_what_follows_is_applied(
    engine: Engine, kafka: Kafka, serve: Serve, tmp_path: Any
) -> None:
    told = {**engine.settings(tmp_path / "data"), **kafka.settings, "kafka_options": HURRY, "prune_order_max": 79}
    server = await serve(settings_for(**told))
    memories, orders = await remember(server), Orders(server.settings)
    for place, (message, _, _) in enumerate(POISON):
        orders.send(message, key=b"key", headers=[("place", b"%d" % place), ("sfm-reason", b"of an earlier time")])
    old_ms = int((time.time() - 90_000) * 1000)
    orders.send(order_of("old", "k00"), timestamp=old_ms)
    orders.send(order_of("after", "k01"))
    await done(orders)
    *refused, old = await letters(orders, len(POISON) + 1)
    assert len(refused) == len(POISON)
    for place, (letter, (message, reason, field)) in enumerate(zip(refused, POISON, strict=True)):
        headers = letter.headers
        assert (headers["place"], headers["sfm-reason"], headers["sfm-field"]) == (str(place), reason, field), headers
        assert (headers["sfm-topic"], headers["sfm-partition"], headers["sfm-offset"]) == (
            server.settings.kafka_topic_prune_order,
            "0",
            str(place),
        )
        assert headers["sfm-problem"]
        assert headers["sfm-time"]
        assert letter.key == b"key"
        assert (letter.value or None) == (json.dumps(message).encode() if isinstance(message, dict) else message or None)
    assert (old.headers["sfm-reason"], old.headers["sfm-field"]) == ("INVALID_REQUEST", "timestamp")
    assert [a.order_id for a in await Prunes.beside(memories).audits()] == ["after"]
    assert set(await memories.keys()) == set(KEYS) - {"k01"}
    assert await outcomes(server) == {"refused": len(POISON) + 1, "applied": 1}
