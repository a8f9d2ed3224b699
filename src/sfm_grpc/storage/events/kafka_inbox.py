"""Messages of a Kafka topic, by librdkafka's consumer: a group shares its partitions; an offset is committed once it is done.

Nothing is committed by itself. While a message is in hand for long, its consumer goes on polling with all partitions paused, so
that the group does not take it for dead; one whose partition went to another process meanwhile is not committed: it would move
back what the other one has committed since.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import confluent_kafka
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from sfm_grpc.storage.events.contract import InboxState, InboxUnavailable, Message
from sfm_grpc.storage.events.librdkafka import SILENT, words
from sfm_grpc.storage.events.options import KafkaOptions, Property

_T = TypeVar("_T")

# What the promises rest on.
FIXED: dict[str, Property] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
}
_USUAL: dict[str, Property] = {
    # Whoever dies is followed after so long.
    "session.timeout.ms": 10_000,
    # A broker that stands still holds up for so long whoever asks it something.
    "socket.timeout.ms": 10_000,
    # A topic that is made later is found.
    "topic.metadata.refresh.interval.ms": 10_000,
    "allow.auto.create.topics": True,
    # One at a time is worked on; these wait here.
    "queued.max.messages.kbytes": 16 * 1024,
}
# As in `kafka`; but one that does not arrive is given up, and sent again by whoever asked.
_REFUSING: dict[str, Property] = {"enable.idempotence": True, "acks": "all", "message.timeout.ms": 10_000}
_REFUSING_USUAL: dict[str, Property] = {"partitioner": "murmur2_random", "message.max.bytes": 64 << 20}
_POLL_S = 0.25
_CHECK_S = 3.0
# What was said of trouble is believed for so long, where nothing else is known.
_TROUBLE_S = 15.0
_LEFT_OUT = "sfm-value-left-out-bytes"

_Partition = tuple[str, int]


class KafkaInbox:
    """`storage.events.contract.Inbox` of one topic."""

    name = "kafka-orders"

    def __init__(self, options: KafkaOptions, *, topic: str, refused_topic: str, group: str) -> None:
        """Connects to nothing yet. Raises ValueError for properties that librdkafka does not know, or values it does not take."""
        self._options = options
        self._topic = topic
        self._refused_topic = refused_topic
        self._group = group
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-orders")
        self._closing = threading.Event()
        self._subscribed = False
        self._paused: set[_Partition] = set()
        """Also those that went meanwhile: librdkafka has them paused still when they come back."""
        self._turns = itertools.count(1)
        self._ours: dict[_Partition, int] = {}
        """The partitions that are this process's, each with a number that is another one when it comes back."""
        self._in_hand = 0
        """That number, of the message that was taken last."""
        self._trouble = ("", 0.0)
        """What librdkafka last said was wrong, and when, on time.monotonic()."""
        self._producer: Producer | None = None
        told = {**_USUAL, **options.client, **FIXED, "group.id": group, "error_cb": self._heard}
        try:
            self._consumer = Consumer(told, logger=SILENT)
        except KafkaException as error:
            raise ValueError(words(error.args[0])) from error

    def _heard(self, error: KafkaError) -> None:
        # That all brokers are down says less than why the last one is.
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._trouble[0]:
            self._trouble = (words(error), time.monotonic())

    async def _on_thread(self, work: Callable[[], _T]) -> _T:
        """All of it but `close` is asked on one thread. Raises InboxUnavailable."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except KafkaException as error:
            raise InboxUnavailable(self._why(words(error.args[0]))) from error

    # ---- how it is

    async def check(self) -> InboxState:
        """See the contract."""
        return await self._on_thread(self._check)

    def _check(self) -> InboxState:
        there = f"{self._topic} of Kafka at {self._options.bootstrap}, as group {self._group}"
        found = self._consumer.list_topics(self._topic, timeout=_CHECK_S)
        if found.topics[self._topic].error is not None:
            return InboxState(f"{there}; it has no topic {self._topic}", 0)
        trouble, since_s = self._trouble
        if trouble and (not self._ours or time.monotonic() - since_s < _TROUBLE_S):
            raise InboxUnavailable(self._why(trouble))
        return InboxState(f"{there}; {len(self._ours)} of its partitions", self._waiting())

    def _why(self, otherwise: str) -> str:
        trouble, since_s = self._trouble
        told = trouble if trouble and time.monotonic() - since_s < _TROUBLE_S else otherwise
        return f"Kafka at {self._options.bootstrap}: {told}"

    def _waiting(self) -> int:
        waiting = 0
        for at in self._consumer.position(self._consumer.assignment()):
            known = self._consumer.get_watermark_offsets(at, cached=True)
            if known is not None and at.offset >= 0:
                waiting += max(0, known[1] - at.offset)
        return waiting

    # ---- taking

    async def next(self) -> Message | None:
        """See the contract."""
        return await self._on_thread(self._next)

    def _next(self) -> Message | None:
        if self._closing.is_set():
            return None
        if not self._subscribed:
            self._consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
            self._subscribed = True
        if self._paused:
            back = [p for p in self._consumer.assignment() if (p.topic, p.partition) in self._paused]
            self._consumer.resume(back)
            self._paused -= {(p.topic, p.partition) for p in back}
        found = self._consumer.poll(_POLL_S)
        if found is None:
            return None
        if (error := found.error()) is not None:
            self._trouble = (words(error), time.monotonic())
            raise InboxUnavailable(self._why(""))
        message = _read(found)
        self._in_hand = self._ours.setdefault((message.topic, message.partition), next(self._turns))
        return message

    def _assigned(self, _: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._ours |= {(p.topic, p.partition): next(self._turns) for p in partitions}
        self._trouble = ("", 0.0)

    def _revoked(self, _: Consumer, partitions: Sequence[TopicPartition]) -> None:
        for p in partitions:
            self._ours.pop((p.topic, p.partition), None)

    def has(self, message: Message) -> bool:
        """See the contract."""
        return self._ours.get((message.topic, message.partition)) == self._in_hand

    async def hold(self, seconds: float) -> None:
        """See the contract."""
        await self._on_thread(lambda: self._hold(seconds))

    def _hold(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while not self._closing.is_set() and (left_s := end_s - time.monotonic()) > 0:
            assigned = self._consumer.assignment()  # each time: others may have come to it
            self._consumer.pause(assigned)
            self._paused |= {(p.topic, p.partition) for p in assigned}
            found = self._consumer.poll(min(_POLL_S, left_s))
            if found is not None and found.error() is None:  # of a partition that came just now: its turn is later
                self._consumer.seek(TopicPartition(str(found.topic()), int(found.partition() or 0), int(found.offset() or 0)))

    async def done(self, message: Message) -> None:
        """See the contract."""
        await self._on_thread(lambda: self._done(message))

    def _done(self, message: Message) -> None:
        if self.has(message):
            after = TopicPartition(message.topic, message.partition, message.offset + 1)
            self._consumer.commit(offsets=[after], asynchronous=False)

    # ---- refusing

    async def refuse(self, message: Message, why: Mapping[str, str]) -> None:
        """See the contract."""
        headers = [(name, value) for name, value in message.headers if name not in why]  # of one that was refused before
        headers += [(name, value.encode(errors="backslashreplace")) for name, value in why.items()]
        await self._on_thread(lambda: self._refuse(message, headers))

    def _refuse(self, message: Message, headers: list[tuple[str, bytes | None]]) -> None:
        error = self._sent(message.key, message.value, headers)
        if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE and message.value:
            # The topic takes less than the one it came from. Where it came from it lies still, and the headers say where.
            left_out = (_LEFT_OUT, b"%d" % len(message.value))
            error = self._sent(message.key, None, [*headers, left_out])
        if error is not None:
            raise InboxUnavailable(
                f"Kafka at {self._options.bootstrap} refuses a message ({self._refused_topic}): {words(error)}"
            )

    def _sent(self, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]) -> KafkaError | None:
        """None when it has arrived, else why it has not; it may all the same."""
        if self._producer is None:
            told = {**_REFUSING_USUAL, **self._options.client, **_REFUSING, "error_cb": self._heard}
            self._producer = Producer(told, logger=SILENT)
        producer, told_of = self._producer, list[KafkaError | None]()
        try:
            producer.produce(
                self._refused_topic, value, key, headers=list(headers), on_delivery=lambda error, _: told_of.append(error)
            )
            while not told_of and not self._closing.is_set():
                producer.poll(_POLL_S)
        except KafkaException as error:
            told_of.append(error.args[0])
        refused = told_of[0] if told_of else KafkaError(KafkaError._DESTROY)
        if refused is not None:  # what it may still have is not to come later
            producer.purge()
            producer.poll(0)
            self._producer = None
        return refused

    # ---- the end

    async def close(self) -> None:
        """See the contract."""
        self._closing.set()
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        self._thread.shutdown(wait=True)
        with contextlib.suppress(RuntimeError):  # it is closed
            self._consumer.close()


def _read(found: confluent_kafka.Message) -> Message:
    kind, time_ms = found.timestamp()
    return Message(
        topic=str(found.topic()),
        partition=int(found.partition() or 0),
        offset=int(found.offset() or 0),
        time_us=None if kind == TIMESTAMP_NOT_AVAILABLE else time_ms * 1000,
        key=_bytes(found.key()),
        value=_bytes(found.value()),
        headers=_headers(found),
    )


def _headers(found: confluent_kafka.Message) -> list[tuple[str, bytes | None]]:
    """None of them where one's name is no text: whatever is in a message, it must be taken, or those behind it never are."""
    try:
        told: Any = found.headers() or []
        return [(name, _bytes(value)) for name, value in told]
    except ValueError:
        return []


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
