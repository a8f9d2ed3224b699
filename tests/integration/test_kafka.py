"""Events reach Kafka: all of them, in order of each namespace, as CloudEvents that are what their schemas say."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic
from sfm.v1 import health_pb2, memory_store_pb2, memory_store_pb2_grpc

from sfm_grpc.coordinator import relay
from sfm_grpc.errors import StoreRefused
from sfm_grpc.model import Scope
from sfm_grpc.settings import ConfigError, Settings, load
from sfm_grpc.storage.events.cloud_events import CloudEvents, key_of
from sfm_grpc.storage.events.kafka import FIXED, KafkaSink
from sfm_grpc.storage.events.options import KafkaOptions
from sfm_grpc.storage.outbox_contract import StoredEvent
from tests.conftest import Serve
from tests.support.cli import here
from tests.support.drivers import Put
from tests.support.engines import Engine
from tests.support.kafka import Arrived, arrived, disorder, has_all
from tests.support.matrices import density
from tests.support.memories import put_of
from tests.support.messages import commit_of
from tests.support.schemas import schema_of
from tests.support.servers import Server, settings_for, until
from tests.support.services.kafka_broker import PASSWORD, USER
from tests.support.services.kafka_fixtures import Kafka, StartKafka, StartMockKafka

HURRY = {"_LOOK_S": 0.2, "_RENEW_S": 0.2, "_RETRY_MIN_S": 0.05, "_RETRY_MAX_S": 0.2}


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in HURRY.items():
        monkeypatch.setattr(relay, name, seconds)


def topics(settings: Settings) -> list[str]:
    return [settings.kafka_topics["rho.status"], settings.kafka_topics["memory.event"]]


async def look(settings: Settings, ids: Sequence[int], bootstrap: str = "") -> list[Arrived]:
    return await asyncio.to_thread(arrived, bootstrap or settings.kafka_bootstrap, topics(settings), has_all(ids))


async def event_ids(server: Server) -> list[int]:
    return [e.event_id for e in await server.app.store.events(after=0, limit=10_000)]


async def commit(server: Server, namespace: str, expected: int, tenant: str = "default") -> None:
    request = commit_of(Put("rho", density(seed=expected)), expected=expected, namespace=namespace)
    await server.rho.CommitRho(request, metadata=[("x-soma-tenant", tenant)])


async def component(server: Server) -> Any:
    report = await server.health.GetHealth(health_pb2.GetHealthRequest())
    assert report.ready
    assert report.ok, "no caller needs Kafka"
    return next(c for c in report.components if c.name == "kafka")


# ---- what arrives


async def test_every_event_arrives_in_order_and_is_what_its_schema_says(
    engine: Engine, kafka: Kafka, serve: Serve, tmp_path: Any
) -> None:
    server = await serve(settings_for(**engine.settings(tmp_path / "data"), **kafka.settings, node_id="node-7"))
    memories = memory_stub(server)
    for version in range(5):
        for namespace in ("n", "m/1"):
            await commit(server, namespace, version)
            await memories.PutMemory(put_request(namespace, f"k{version}"))
    await commit(server, "n", 0, tenant="a/b")
    ids = await event_ids(server)
    assert len(ids) == 21
    found = await look(server.settings, ids)
    assert disorder(found) == []
    for each in found:
        kind = each.headers["ce_type"].removeprefix("sfm.").removesuffix(".v1")
        assert each.topic == kafka.topic({"rho.status": "rho_status", "memory.event": "memory_event"}[kind])
        assert list(schema_of(kind).iter_errors(each.value)) == []
        assert each.key == key_of(Scope(each.value["tenant"], each.value["namespace"])).decode()
        assert each.headers["ce_subject"] == each.value["namespace"]
        assert each.headers["ce_tenant"] == each.value["tenant"]
        assert (each.headers["ce_specversion"], each.headers["content-type"]) == ("1.0", "application/json")
        assert abs(datetime.fromisoformat(each.headers["ce_time"]).timestamp() - each.value["timestamp"]) < 1
    assert {a.key for a in found} == {"default/n", "default/m/1", "a%2Fb/n"}


async def test_what_was_written_before_there_was_a_kafka_arrives_too(
    engine: Engine, mock_kafka: StartMockKafka, serve: Serve, tmp_path: Any
) -> None:
    there = engine.settings(tmp_path / "data")
    before = await serve(settings_for(**there))
    await commit(before, "n", 0)
    after = await serve(settings_for(**there, kafka_bootstrap=mock_kafka().bootstrap))
    await commit(after, "n", 1)
    assert [a.value["version"] for a in await look(after.settings, await event_ids(after))] == [1, 2]
    await until(lambda: nothing_waits(after))


async def nothing_waits(server: Server) -> bool:
    return not (await server.app.store.outbox.backlog("kafka")).events


# ---- Kafka is away


async def test_a_server_starts_and_serves_without_the_kafka_it_is_told_of(engine: Engine, serve: Serve, tmp_path: Any) -> None:
    server = await serve(settings_for(**engine.settings(tmp_path / "data"), kafka_bootstrap="127.0.0.1:1"))
    await commit(server, "n", 0)
    await until(lambda: says(server, "refused"))
    assert not (await component(server)).ok
    assert len(await event_ids(server)) == 1


async def says(server: Server, words: str) -> bool:
    return words in (await component(server)).detail


@pytest.mark.engines("postgres")
async def test_what_waits_while_kafka_stands_still_arrives_afterwards(
    engine: Engine, mock_kafka: StartMockKafka, serve: Serve, tmp_path: Any
) -> None:
    broker = mock_kafka()
    server = await serve(settings_for(**engine.settings(tmp_path / "data"), kafka_bootstrap=broker.bootstrap))
    await commit(server, "n", 0)
    await look(server.settings, await event_ids(server))
    broker.freeze()
    for version in range(1, 20):
        await commit(server, "n", version)
    await until(lambda: is_told(server, ok=False), within_s=30)
    broker.thaw()
    found = await look(server.settings, await event_ids(server))
    assert disorder(found) == []
    await until(lambda: is_told(server, ok=True), within_s=30)


async def is_told(server: Server, *, ok: bool) -> bool:
    return (await component(server)).ok is ok


@pytest.mark.engines("postgres")
async def test_a_broker_that_is_killed_under_load_loses_nothing(
    engine: Engine, kafka_server: StartKafka, serve: Serve, tmp_path: Any
) -> None:
    broker = kafka_server()
    server = await serve(settings_for(**engine.settings(tmp_path / "data"), kafka_bootstrap=broker.bootstrap))
    done = asyncio.Event()

    async def load(namespace: str) -> None:
        version = 0
        while not done.is_set():
            await commit(server, namespace, version)
            version += 1
            await asyncio.sleep(0.01)

    writers = [asyncio.create_task(load(f"n{i}")) for i in range(4)]
    for _ in range(2):
        await asyncio.sleep(1)
        await asyncio.to_thread(broker.kill)
        await asyncio.sleep(1)
        await asyncio.to_thread(broker.start)
    done.set()
    await asyncio.gather(*writers)
    ids = await event_ids(server)
    found = await look(server.settings, ids)
    assert {a.event_id for a in found} == set(ids)
    assert disorder(found) == []


@pytest.mark.engines("sqlite")
async def test_what_kafka_refuses_holds_up_what_follows_until_it_is_mended(
    engine: Engine, kafka_service: str, serve: Serve, tmp_path: Any
) -> None:
    kafka = Kafka(kafka_service, f"t-{uuid.uuid4().hex[:12]}")
    narrow = kafka.topic("memory_event")
    admin = AdminClient({"bootstrap.servers": kafka_service, "log_level": 0})
    admin.create_topics([NewTopic(narrow, 1, config={"max.message.bytes": "1000"})])[narrow].result()
    server = await serve(settings_for(**engine.settings(tmp_path / "data"), **kafka.settings))
    memories = memory_stub(server)
    for number in range(30):
        key = "x" * 200 if number == 7 else "k"
        puts = [put_of(f"{key}{number}-{n}") for n in range(10 if number == 7 else 1)]
        await memories.BatchPutMemories(memory_store_pb2.BatchPutMemoriesRequest(namespace="n", puts=puts))
    await until(lambda: says(server, "too large"), within_s=30)
    found = await look(server.settings, (await event_ids(server))[:7])
    assert len({a.event_id for a in found}) == 7, "nothing was passed over"
    change = ConfigEntry("max.message.bytes", "100000", incremental_operation=AlterConfigOpType.SET)
    wide = ConfigResource(ConfigResource.Type.TOPIC, narrow, incremental_configs=[change])
    admin.incremental_alter_configs([wide])[wide].result()
    found = await look(server.settings, await event_ids(server))
    assert disorder(found) == []
    assert len(found) == 30, "nothing came twice"
    await until(lambda: is_told(server, ok=True))


@pytest.mark.engines("sqlite")
async def test_what_kafka_lost_is_counted_and_told(
    engine: Engine, serve: Serve, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    told = {"kafka_bootstrap": "127.0.0.1:1", "events_kept": 1, "events_unsent_max": 5}
    server = await serve(settings_for(**engine.settings(tmp_path / "data"), **told))
    for version in range(12):
        await commit(server, "n", version)
    metrics = server.app.metrics.events
    await until(lambda: metrics.unsent._value.get() == 12)
    assert metrics.lag_seconds._value.get() > 0
    await server.app._housekeeping._sweep()
    await until(lambda: (metrics.unsent._value.get(), metrics.dropped._value.get()) == (5, 7))
    assert "7 events were taken away before kafka had them" in caplog.text
    assert metrics.ok._value.get() == 0


# ---- how to come in


@pytest.mark.engines("sqlite")
async def test_who_we_are_is_told_to_kafka_and_a_wrong_password_to_whoever_asks(
    engine: Engine, kafka_server: StartKafka, serve: Serve, tmp_path: Any
) -> None:
    broker = kafka_server()
    way = {"kafka_bootstrap": broker.sasl_bootstrap, "kafka_security_protocol": "sasl_plaintext", "kafka_sasl_mechanism": "PLAIN"}
    for number, password in enumerate((PASSWORD, "wrong")):
        told = load({"kafka_sasl_username": USER, "kafka_sasl_password": password, **way})
        usual = settings_for(**engine.settings(tmp_path / str(number)))
        names = (
            "kafka_bootstrap",
            "kafka_security_protocol",
            "kafka_sasl_mechanism",
            "kafka_sasl_username",
            "kafka_sasl_password",
        )
        server = await serve(usual.model_copy(update={name: getattr(told, name) for name in names}))
        await commit(server, "n", 0)
        if password == PASSWORD:
            await look(server.settings, await event_ids(server), broker.bootstrap)
            await until(lambda s=server: is_told(s, ok=True))
        else:
            await until(lambda s=server: says(s, "uthentication"), within_s=30)
            assert not (await component(server)).ok


@pytest.mark.parametrize("given", ['{"no.such.property": 1}', '{"compression.type": "slow"}'])
def test_what_librdkafka_does_not_take_is_refused_at_the_start(given: str) -> None:
    from sfm_grpc.app import App

    told = load({"kafka_bootstrap": "127.0.0.1:1", "kafka_options": given, "listen": "127.0.0.1:0"})
    with pytest.raises(StoreRefused, match="SFM_KAFKA"):
        App(told)


@pytest.mark.parametrize("given", ["[]", "{", '{"a": {}}', '{"a": null}'])
def test_options_that_are_no_object_are_refused(given: str) -> None:
    with pytest.raises(ConfigError, match="SFM_KAFKA_OPTIONS"):
        load({"kafka_options": given})


def test_what_the_promises_rest_on_cannot_be_changed() -> None:
    told = KafkaOptions("127.0.0.1:1", properties={"acks": 0, "enable.idempotence": False, "message.timeout.ms": 5})
    # With these librdkafka would refuse the gapless guarantee.
    assert KafkaSink(told, CloudEvents("/sfm", {})).name == "kafka"
    assert {**told.client, **FIXED}["acks"] == "all"


@pytest.mark.parametrize(
    ("how", "refused"),
    [
        ({}, True),
        ({"insecure": True}, False),
        ({"kafka_security_protocol": "sasl_ssl"}, False),
        ({"kafka_sasl_mechanism": "SCRAM-SHA-256"}, False),
        ({"kafka_bootstrap": "127.0.0.1:9092, [::1]:9092,localhost:9092"}, False),
    ],
)
def test_a_password_is_not_told_to_the_network(how: dict[str, Any], refused: bool) -> None:
    usual = {"kafka_bootstrap": "127.0.0.1:9092,kafka:9092", "kafka_security_protocol": "sasl_plaintext"}
    told = usual | {"kafka_sasl_mechanism": "PLAIN", "kafka_sasl_username": "u", "kafka_sasl_password": "p"} | how
    if refused:
        with pytest.raises(ConfigError, match="SFM_KAFKA_SASL_PASSWORD would be read"):
            load(told)
    else:
        assert load(told).kafka_properties["sasl.password"] == "p"


def test_secrets_are_masked() -> None:
    secret = {"SFM_KAFKA_SASL_PASSWORD": "hunter2", "SFM_KAFKA_OPTIONS": '{"ssl.key.password": "hunter2"}'}
    assert "hunter2" not in here("config", env=secret).stdout
    assert "hunter2" not in here("config", "--json", env=secret).stdout


# ---- names


def test_two_namespaces_never_share_a_key() -> None:
    pairs = [("a", "b/c"), ("a/b", "c"), ("a%2Fb", "c"), ("a", "b%2Fc"), ("a%", "2Fb/c"), ("ä", "ö")]
    assert len({key_of(Scope(*pair)) for pair in pairs}) == len(pairs)
    assert key_of(Scope("default", "agent/7")) == b"default/agent/7"


def test_a_kind_of_event_that_is_not_named_keeps_its_name() -> None:
    event = StoredEvent(7, Scope("t", "n"), "new.kind", 1, 1_500_000, {"a": 1})
    record = CloudEvents("/sfm", {"rho.status": "x"}).record(event)
    assert (record.topic, record.value) == ("new.kind", b'{"a":1}')
    headers = dict(record.headers)
    assert (headers["ce_id"], headers["ce_source"], headers["ce_type"]) == (b"7", b"/sfm", b"sfm.new.kind.v1")
    assert headers["ce_time"] == b"1970-01-01T00:00:01.500000Z"


def memory_stub(server: Server) -> Any:
    return memory_store_pb2_grpc.MemoryStoreStub(server.channel)


def put_request(namespace: str, key: str) -> Any:
    return memory_store_pb2.PutMemoryRequest(namespace=namespace, put=put_of(key))
