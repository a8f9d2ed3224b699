"""Orders to prune as somebody else sends them, and where they end."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from sfm_grpc.density.envelope import serialize_matrix
from sfm_grpc.settings import Settings

# A group's new member does not wait long for one that was killed; a topic is soon found.
HURRY = json.dumps({"session.timeout.ms": 6_000, "heartbeat.interval.ms": 500, "topic.metadata.refresh.interval.ms": 500})


def order_of(order_id: str, *keys: str, **said: Any) -> dict[str, Any]:
    return {"order_id": order_id, "tenant": "default", "namespace": "n", "keys": list(keys), **said}


def commit_part(expected: int, matrix: Any, **said: Any) -> dict[str, Any]:
    envelope = base64.b64encode(serialize_matrix(matrix)).decode()
    return {"expected_version": expected, "updates": [{"key": "rho", "envelope": envelope}], **said}


@dataclass(frozen=True)
class Letter:
    """A refused message."""

    key: bytes | None
    value: bytes | None
    headers: dict[str, str]


class Orders:
    """The topic of orders of one server's settings."""

    def __init__(self, settings: Settings, bootstrap: str = "") -> None:
        """`bootstrap`: where we find it, if a server goes another way."""
        self._bootstrap = bootstrap or settings.kafka_bootstrap
        self._settings = settings
        self._sent: dict[int, int] = {}

    def send(self, *messages: Any, partition: int = 0, **how: Any) -> None:
        """Each as JSON, but for bytes and None; in order."""
        producer, told = Producer({"bootstrap.servers": self._bootstrap, "log_level": 0}), list[Any]()
        for message in messages:
            value = message if isinstance(message, bytes | None) else json.dumps(message).encode()
            producer.produce(
                self._settings.kafka_topic_prune_order,
                value,
                partition=partition,
                on_delivery=lambda error, _: told.append(error),
                **how,
            )
            producer.flush(30)
        assert told == [None] * len(messages)
        self._sent[partition] = self._sent.get(partition, 0) + len(messages)

    def committed(self, partition: int = 0) -> int:
        """Up to where the group is done."""
        told = {"bootstrap.servers": self._bootstrap, "group.id": self._settings.kafka_group, "log_level": 0}
        consumer = Consumer(told)
        try:
            [found] = consumer.committed([TopicPartition(self._settings.kafka_topic_prune_order, partition)], timeout=30)
            return max(0, int(found.offset))
        finally:
            consumer.close()

    def all_done(self) -> bool:
        return all(self.committed(partition) == sent for partition, sent in self._sent.items())

    def letters(self, enough: Callable[[list[Letter]], bool], *, within_s: float = 60.0) -> list[Letter]:
        """The refused ones, as soon as they are enough."""
        found: list[Letter] = []
        end = time.monotonic() + within_s
        topic = self._settings.kafka_topic_prune_order_dlq
        told = {"bootstrap.servers": self._bootstrap, "group.id": "look", "enable.auto.commit": False, "log_level": 0}
        consumer = Consumer(told)
        try:
            partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            while not partitions:
                assert time.monotonic() < end, f"no {topic}"
                time.sleep(0.1)
                partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
            consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
            while not enough(found):
                assert time.monotonic() < end, f"{len(found)} letters after {within_s:g} s: {found}"
                for m in consumer.consume(100, timeout=0.2):
                    if m.error() is None:
                        headers = {name: bytes(value or b"").decode() for name, value in m.headers() or []}
                        found.append(Letter(_bytes(m.key()), _bytes(m.value()), headers))
        finally:
            consumer.close()
        return found


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)
