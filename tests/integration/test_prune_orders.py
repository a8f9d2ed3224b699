"""Orders that come by Kafka: applied once, or waiting, or put aside with the reason; in order, and none is passed over."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from functools import partial
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic
from sfm.v1 import pruner_pb2 as pb
from sfm.v1 import rho_store_pb2

from sfm_grpc.coordinator import prune_orders
from sfm_grpc.coordinator.presence import Component
from sfm_grpc.settings import ConfigError, load
from sfm_grpc.storage.events.kafka_inbox import FIXED, KafkaInbox
from sfm_grpc.storage.events.options import KafkaOptions
from tests.conftest import Serve
from tests.support.engines import Engine
from tests.support.kafka import Arrived, arrived
from tests.support.matrices import density
from tests.support.memories import Memories, put_of
from tests.support.orders import HURRY, Letter, Orders, commit_part, order_of
from tests.support.prunes import Prunes, check_chain
from tests.support.schemas import schema_of
from tests.support.servers import Server, serving, settings_for, until
from tests.support.services.fixtures import StartProxy
from tests.support.services.kafka_fixtures import Kafka, StartKafka, StartMockKafka

ON_BOTH = pytest.mark.engines("sqlite", "postgres")

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


@ON_BOTH
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


@ON_BOTH
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


@ON_BOTH
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


@ON_BOTH
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


# ---- when something is away


@pytest.fixture
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"_RETRY_MAX_S": 0.3, "_LOOK_S": 0.2}.items():
        monkeypatch.setattr(prune_orders, name, seconds)


def each_of(first: int, last: int) -> list[dict[str, Any]]:
    """Orders of one key each."""
    return [order_of(f"o{i}", KEYS[i]) for i in range(first, last)]


async def check_applied(server: Server, count: int) -> None:
    """The first orders were applied once each; nothing else was."""
    memories = Memories(server.channel)
    audits = await Prunes.beside(memories).audits()
    check_chain(audits)
    assert sorted(a.order_id for a in audits) == sorted(f"o{i}" for i in range(count))
    assert set(await memories.keys()) == set(KEYS[count:])


@pytest.mark.engines("postgres")
@pytest.mark.usefixtures("_in_a_hurry")
async def test_orders_wait_for_a_store_that_is_away_whoever_gets_them_meanwhile(
    engine: Engine, mock_kafka: StartMockKafka, fault_proxy: StartProxy, serve: Serve, tmp_path: Any
) -> None:
    there = engine.settings(tmp_path / "data")
    proxy = fault_proxy(str(there["postgres_url"]))
    told = {"kafka_bootstrap": mock_kafka().bootstrap, "kafka_options": HURRY}
    one = await serve(settings_for(**there | {"postgres_url": proxy.url(str(there["postgres_url"]))}, **told))
    await remember(one)
    orders = Orders(one.settings)
    orders.send(*each_of(0, 2))
    await done(orders)
    proxy.cut()
    orders.send(*each_of(2, 5))
    orders.send(*each_of(5, 7), partition=1)
    await until(lambda: "waits: the store is not available" in component(one).detail, within_s=SOON_S)
    assert not component(one).ok
    await asyncio.sleep(2)
    assert await asyncio.to_thread(orders.committed) == 2
    assert (await outcomes(one)) == {"applied": 2}
    proxy.restore()
    await done(orders)
    await until(lambda: is_ok(one))
    assert await outcomes(one) == {"applied": 7}
    # And once more, while another server comes: it gets some of the partitions, also what is in hand.
    proxy.cut()
    for partition in range(4):
        orders.send(*each_of(7 + partition * 4, 11 + partition * 4), partition=partition)
    await until(lambda: not is_ok(one), within_s=SOON_S)
    two = await serve(settings_for(**there | {"data_dir": tmp_path / "other"}, **told))
    await until(lambda: two.app.metrics.orders.done.labels("applied")._value.get() >= 8, within_s=SOON_S)
    proxy.restore()
    await done(orders)
    await check_applied(two, 23)


@pytest.mark.engines("postgres")
async def test_two_servers_share_the_orders_and_one_goes(
    engine: Engine, mock_kafka: StartMockKafka, serve: Serve, tmp_path: Any
) -> None:
    there = engine.settings(tmp_path / "data")
    told = {"kafka_bootstrap": mock_kafka().bootstrap, "kafka_options": HURRY}
    one = await serve(settings_for(**there, **told))
    await remember(one)
    orders = Orders(one.settings)
    async with serving(settings_for(**there | {"data_dir": tmp_path / "other"}, **told)) as two:
        await until(lambda: all("2 of its partitions" in component(s).detail for s in (one, two)), within_s=SOON_S)
        for partition in range(4):
            orders.send(*each_of(partition * 3, 3 + partition * 3), partition=partition)
        await done(orders)
        assert [await outcomes(s) for s in (one, two)] == [{"applied": 6}, {"applied": 6}]
    for partition in range(4):
        orders.send(*each_of(12 + partition * 3, 15 + partition * 3), partition=partition)
    await done(orders)
    await check_applied(one, 24)


@pytest.mark.engines("sqlite")
async def test_a_broker_that_comes_late_and_is_killed_loses_no_order(
    engine: Engine, kafka_server: StartKafka, serve: Serve, tmp_path: Any
) -> None:
    broker = kafka_server()
    await asyncio.to_thread(broker.kill)
    told = {"kafka_bootstrap": broker.bootstrap, "kafka_options": HURRY}
    server = await serve(settings_for(**engine.settings(tmp_path / "data"), **told))
    await remember(server)
    await until(lambda: "refused" in component(server).detail, within_s=SOON_S)
    report = server.app.truth.report()
    assert (report.ready, report.ok) == (True, True)
    await asyncio.to_thread(broker.start)
    orders = Orders(server.settings)
    orders.send(*each_of(0, 5))
    await done(orders)
    await until(lambda: is_ok(server), within_s=SOON_S)
    await asyncio.to_thread(broker.kill)
    await until(lambda: not is_ok(server), within_s=SOON_S)
    await asyncio.to_thread(broker.start)
    orders.send(*each_of(5, 9))
    await done(orders)
    await until(lambda: is_ok(server), within_s=SOON_S)
    await check_applied(server, 9)


@pytest.mark.engines("sqlite")
async def test_a_broker_that_stands_still_is_waited_for(
    engine: Engine, mock_kafka: StartMockKafka, serve: Serve, tmp_path: Any
) -> None:
    broker = mock_kafka()
    told = {"kafka_bootstrap": broker.bootstrap, "kafka_options": HURRY}
    server = await serve(settings_for(**engine.settings(tmp_path / "data"), **told))
    await remember(server)
    orders = Orders(server.settings)
    orders.send(*each_of(0, 3))
    await done(orders)
    broker.freeze()
    await until(lambda: not is_ok(server), within_s=SOON_S)
    broker.thaw()
    orders.send(*each_of(3, 7))
    await done(orders)
    await until(lambda: is_ok(server), within_s=SOON_S)
    await check_applied(server, 7)


# ---- what nobody foresaw, and what does not fit


@pytest.mark.engines("sqlite")
@pytest.mark.usefixtures("_in_a_hurry")
async def test_an_order_that_meets_a_defect_does_not_hold_up_the_others_for_ever(
    engine: Engine,
    mock_kafka: StartMockKafka,
    serve: Serve,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = {"kafka_bootstrap": mock_kafka().bootstrap, "kafka_options": HURRY}
    server = await serve(settings_for(**engine.settings(tmp_path / "data"), **told))
    await remember(server)
    usual, seen = server.app.pruner.apply_order, list[str]()

    async def apply_order(mutation: Any, order: Any, commit: Any = None) -> Any:
        seen.append(order.order_id)
        if order.order_id == "o1" or (order.order_id == "o0" and seen.count("o0") < 3):
            raise RuntimeError("a defect")
        return await usual(mutation, order, commit)

    monkeypatch.setattr(server.app.pruner, "apply_order", apply_order)
    orders = Orders(server.settings)
    orders.send(*each_of(0, 3))
    await done(orders)
    [letter] = await letters(orders, 1)
    assert (letter.headers["sfm-reason"], letter.headers["sfm-offset"]) == ("INTERNAL", "1")
    assert "prune.order/0@1" in letter.headers["sfm-problem"]
    assert seen == ["o0"] * 3 + ["o1"] * 5 + ["o2"]
    assert "the order of prune.order/0@1 failed" in caplog.text
    assert await outcomes(server) == {"applied": 2, "refused": 1}


@pytest.mark.engines("sqlite")
async def test_a_refused_order_that_does_not_fit_is_told_without_its_value_and_one_that_cannot_be_told_waits(
    engine: Engine, kafka_service: str, serve: Serve, tmp_path: Any
) -> None:
    kafka = Kafka(kafka_service, f"t-{uuid.uuid4().hex[:12]}")
    told = {**engine.settings(tmp_path / "data"), **kafka.settings, "kafka_options": HURRY}
    settings = settings_for(**told)
    narrow = settings.kafka_topic_prune_order_dlq
    admin = AdminClient({"bootstrap.servers": kafka_service, "log_level": 0})
    admin.create_topics([NewTopic(narrow, 1, config={"max.message.bytes": "1500"})])[narrow].result()
    server = await serve(settings)
    await remember(server)
    orders = Orders(settings)
    orders.send(b"x" * 5_000, order_of("o0", "k00"))
    await done(orders)
    [letter] = await letters(orders, 1)
    assert (letter.value, letter.headers["sfm-value-left-out-bytes"], letter.headers["sfm-offset"]) == (None, "5000", "0")
    change_to = partial(_set_bytes_max, admin, narrow)
    change_to("100")
    orders.send(b"poison", order_of("o1", "k01"))
    await until(lambda: "too large" in component(server).detail, within_s=SOON_S)
    assert await asyncio.to_thread(orders.committed) == 2, "nothing is passed over"
    change_to("100000")
    await done(orders)
    assert [letter.value for letter in await letters(orders, 2)] == [None, b"poison"]
    await check_applied(server, 2)


def _set_bytes_max(admin: AdminClient, topic: str, value: str) -> None:
    change = ConfigEntry("max.message.bytes", value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[change])
    admin.incremental_alter_configs([resource])[resource].result()


# ---- how it is set


@pytest.mark.engines("sqlite")
async def test_a_server_can_be_told_to_take_no_orders(engine: Engine, serve: Serve, tmp_path: Any) -> None:
    told = {"kafka_bootstrap": "127.0.0.1:1", "kafka_orders": False}
    server = await serve(settings_for(**engine.settings(tmp_path / "data"), **told))
    assert "kafka-orders" not in {c.name for c in server.app.truth.report().components}


def test_refused_orders_do_not_go_where_they_came_from() -> None:
    with pytest.raises(ConfigError, match="SFM_KAFKA_TOPIC_PRUNE_ORDER_DLQ"):
        load({"kafka_topic_prune_order_dlq": "prune.order"})


def test_what_the_promises_rest_on_cannot_be_changed() -> None:
    assert FIXED == {"enable.auto.commit": False, "enable.auto.offset.store": False, "auto.offset.reset": "earliest"}
    given = KafkaOptions("127.0.0.1:1", properties={"group.id": "other", "enable.auto.commit": True})
    assert KafkaInbox(given, topic="a", refused_topic="b", group="g").name == "kafka-orders"
    with pytest.raises(ValueError, match="isolation"):
        KafkaInbox(KafkaOptions("127.0.0.1:1", properties={"isolation.level": "x"}), topic="a", refused_topic="b", group="g")
