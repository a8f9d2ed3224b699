"""Events to Kafka: how fast the outbox drains, beside a bare producer; and what commits notice of a Kafka that stands still."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from confluent_kafka import Producer

from benchmarks import postgres, processes
from benchmarks.harness import Row, Samples, Section, faster, interleave, ms, summary
from benchmarks.matrices import Array, steps
from sfm_grpc.client import AsyncClient
from sfm_grpc.storage import codec
from sfm_grpc.storage.events.cloud_events import CloudEvents, Record
from sfm_grpc.storage.events.kafka import FIXED
from tests.support.kafka import arrived, disorder, has_all
from tests.support.services.absence import AbsentError
from tests.support.services.kafka_broker import KafkaBroker, MockKafka
from tests.support.services.kafka_programs import search

_NAMESPACES = 200
_PER_S = 5_000
_RATIO = 1.2
_PEER_TOPIC = "peer"
_N, _WRITERS, _EVERY_S = 64, 8, 0.05

# As a commit writes them; of transactions that this database had long before.
_FILL = """
INSERT INTO sfm.event (event_id, tenant, namespace, topic, version, time_us, payload)
SELECT i, 'default', 'n' || i %% %s, 'rho.status', i, 1764324000000000 + i, json_build_object(
  'timestamp', 1764324000.5, 'node_id', 'bench', 'tenant', 'default', 'namespace', 'n' || i %% %s, 'version', i, 'psd_ok', true,
  'trace_ok', true, 'trace_error', 1.1e-16, 'clamped', false)::text
FROM generate_series(1, %s) i
"""
_EVENTS = "SELECT event_id, tenant, namespace, topic, version, time_us, payload FROM sfm.event ORDER BY event_id"
_POSITION = "SELECT event_id FROM sfm.event_sink WHERE name = 'kafka'"
_REWIND = "UPDATE sfm.event_sink SET event_id = 0 WHERE name = 'kafka'"


def run(*, quick: bool) -> Section:
    """Both, on the best Kafka there is."""
    count, repeats, lasting_s = (10_000, 3, 6.0) if quick else (50_000, 9, 60.0)
    try:
        with contextlib.ExitStack() as stack:
            kafka = stack.enter_context(_kafka())
            rows = _drained(kafka, stack.enter_context(postgres.database()), count, repeats)
            rows += _stood_still(kafka, stack.enter_context(postgres.database()), lasting_s)
    except AbsentError as absent:
        return Section("Events to Kafka", [], [str(absent)])
    return Section(
        f"Events to Kafka: {count} of {_NAMESPACES} namespaces from the outbox; and commits while it stands still",
        rows,
        [
            f"{kafka.name}, one broker, on this machine, as is Postgres.",
            "peer: confluent-kafka with the same messages and promises (idempotent, acks=all), from memory, in this process.",
            f"Commits: {_WRITERS} writers of a ρ of {_N}×{_N} each, one in {_EVERY_S * 1000:.0f} ms, Kafka well and frozen.",
        ],
    )


def _kafka() -> KafkaBroker | MockKafka:
    found = search()
    return MockKafka() if isinstance(found, str) else KafkaBroker(found)


# ---- how fast


def _drained(kafka: KafkaBroker | MockKafka, url: str, count: int, repeats: int) -> list[Row]:
    given = postgres.settings(url) | {"kafka_bootstrap": kafka.bootstrap, "events_kept": 10 * count}
    with processes.ours(**given), psycopg.connect(url, autocommit=True) as c:
        c.execute(_FILL, (_NAMESPACES, _NAMESPACES, count))
        form = CloudEvents("/sfm", {})
        records = [form.record(codec.event_from_columns(row)) for row in c.execute(_EVENTS).fetchall()]
        assert len(records) == count

        def drain() -> None:
            c.execute(_REWIND)
            while (c.execute(_POSITION).fetchone() or (0,))[0] < count:
                time.sleep(0.005)

        drain()
        taken = interleave({"ours": drain, "peer": _producing(kafka.bootstrap, records)}, repeats, warmup=1)
        rate = count / taken["ours"].median
        row = faster("a full outbox, until the store knows that all has arrived", taken["ours"], taken["peer"])
        per_s = Row(
            "events a second",
            f"{rate:,.0f}",
            f"{count / taken['peer'].median:,.0f}",
            f"slowest {count / max(taken['ours'].seconds):,.0f}",
            f"≥ {_PER_S:,}",
            rate >= _PER_S,
            {"per_s": rate},
        )
        return [per_s, row]


def _producing(bootstrap: str, records: Sequence[Record]) -> Callable[[], object]:
    usual = {"linger.ms": 5, "partitioner": "murmur2_random", "log_level": 0}
    producer = Producer({"bootstrap.servers": bootstrap, **usual, **FIXED})

    def produce() -> None:
        for r in records:
            while True:
                try:
                    producer.produce(_PEER_TOPIC, r.value, r.key, headers=r.headers)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush()

    return produce


# ---- Kafka stands still


@dataclass
class _Load:
    """Commits of several writers, in phases."""

    address: str
    versions: list[int]
    arrays: itertools.cycle[Array]

    async def phase(self, lasting_s: float) -> list[float]:
        """How long each commit took."""
        took: list[float] = []
        async with AsyncClient(self.address) as client, asyncio.TaskGroup() as group:
            for writer in range(_WRITERS):
                group.create_task(self._write(client, writer, time.monotonic() + lasting_s, took))
        return took

    async def _write(self, client: AsyncClient, writer: int, until: float, took: list[float]) -> None:
        namespace = client.namespace(f"w{writer}")
        while time.monotonic() < until:
            started = time.perf_counter()
            await namespace.commit({"rho": next(self.arrays)}, expected_version=self.versions[writer])
            took.append(time.perf_counter() - started)
            self.versions[writer] += 1
            await asyncio.sleep(_EVERY_S)


def _stood_still(kafka: KafkaBroker | MockKafka, url: str, lasting_s: float) -> list[Row]:
    topic = f"still-{time.time_ns()}"
    settings = {
        "kafka_bootstrap": kafka.bootstrap,
        "kafka_topic_rho_status": topic,
        "events_kept": 1_000_000,
        **processes.PATIENT,
    }
    up: list[float] = []
    down: list[float] = []
    with processes.ours(**postgres.settings(url), **settings) as server:
        load = _Load(server.address, [0] * _WRITERS, itertools.cycle(steps(_N, 8)))
        asyncio.run(load.phase(2.0))
        for part in range(2):  # up, down, down, up: a machine that gets slower meanwhile is nobody's fault
            for into in (up, down) if part == 0 else (down, up):
                if into is down:
                    kafka.freeze()
                try:
                    into.extend(asyncio.run(load.phase(lasting_s / 2)))
                finally:
                    if into is down:
                        kafka.thaw()
        with psycopg.connect(url) as c:
            ids = [event_id for (event_id,) in c.execute("SELECT event_id FROM sfm.event")]
        began = time.monotonic()
        found = arrived(kafka.bootstrap, [topic], has_all(ids))
        took_s = time.monotonic() - began
    ours, peer = Samples(down), Samples(up)
    ratio = ours.quantile(0.95) / peer.quantile(0.95)
    missing, wrong = set(ids) - {a.event_id for a in found}, disorder(found)
    facts = {"down_s": summary(ours), "up_s": summary(peer)}
    told = f"{len(ids)} after {took_s:.1f} s, {len(missing)} missing, {len(wrong)} keys disordered, {len(found) - len(ids)} twice"
    return [
        Row(
            f"p95 of commits, Kafka frozen for {lasting_s:.0f} s (peer: Kafka well)",
            ms(ours.quantile(0.95)),
            ms(peer.quantile(0.95)),
            f"{ratio:.2f}; {len(down)} and {len(up)} commits",
            f"≤ {_RATIO:g}",
            ratio <= _RATIO,
            facts,
        ),
        Row("events afterwards", told, "", "", "all, in order", not missing and not wrong),
    ]
