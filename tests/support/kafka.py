"""What has arrived at Kafka, looked at from outside."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition


@dataclass(frozen=True)
class Arrived:
    """One message."""

    topic: str
    key: str
    headers: dict[str, str]
    value: dict[str, Any]

    @property
    def event_id(self) -> int:
        return int(self.headers["ce_id"])


def arrived(
    bootstrap: str, topics: Collection[str], enough: Callable[[Sequence[Arrived]], bool], *, within_s: float = 60.0, **how: Any
) -> list[Arrived]:
    """All messages of these topics from the beginning, each partition in its order, as soon as they are `enough`."""
    found: list[Arrived] = []
    end = time.monotonic() + within_s
    told = {"bootstrap.servers": bootstrap, "group.id": "look", "enable.auto.commit": False, "log_level": 0, **how}
    consumer = Consumer(told)
    partitions: set[tuple[str, int]] = set()
    try:
        while not enough(found):
            assert time.monotonic() < end, f"{len(found)} events after {within_s:g} s: {[a.event_id for a in found[-20:]]}"
            if len({topic for topic, _ in partitions}) < len(topics):  # one that is made meanwhile
                _follow(consumer, topics, partitions)
            found += [_read(m) for m in consumer.consume(1000, timeout=0.2) if m.error() is None]
    finally:
        consumer.close()
    return found


def _follow(consumer: Consumer, topics: Collection[str], partitions: set[tuple[str, int]]) -> None:
    """Reads what is new of their partitions, too."""
    there = {(topic, p) for topic in topics for p in consumer.list_topics(topic, timeout=10).topics[topic].partitions}
    consumer.incremental_assign([TopicPartition(topic, p, 0) for topic, p in there - partitions])
    partitions |= there


def _read(message: Message) -> Arrived:
    headers = {name: value.decode() for name, value in message.headers() or []}
    return Arrived(str(message.topic()), (message.key() or b"").decode(), headers, json.loads(message.value() or b"null"))


def has_all(ids: Iterable[int]) -> Callable[[Sequence[Arrived]], bool]:
    """Enough once each of these events is there."""
    wanted = set(ids)
    return lambda found: wanted <= {a.event_id for a in found}


def firsts(found: Iterable[Arrived]) -> dict[tuple[str, str], list[int]]:
    """The events of each topic and key in the order in which each arrived first."""
    order: dict[tuple[str, str], list[int]] = defaultdict(list)
    for each in found:
        if each.event_id not in order[each.topic, each.key]:
            order[each.topic, each.key].append(each.event_id)
    return order


def disorder(found: Iterable[Arrived]) -> list[tuple[str, str]]:
    """Topics and keys whose events did not first arrive in order."""
    return [place for place, ids in firsts(found).items() if ids != sorted(ids)]
