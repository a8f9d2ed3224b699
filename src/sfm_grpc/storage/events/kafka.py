"""Events to Kafka, by librdkafka's idempotent producer.

Order and completeness rest on four settings that nobody can change: idempotence (the broker knows each message by its number in
its partition, and takes none twice nor out of turn), acks=all, no time after which a message is given up while the next one
goes on, and no gap: a message that the broker refuses for good stops the producer, and all behind it. Then, and when a batch is
given up, the producer is thrown away. The next one sends the same again: two streams that begin at one place, each in order, so
what arrives first of each event is in order, too, however the two of them meet at the broker.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from sfm_grpc.storage.events.cloud_events import CloudEvents
from sfm_grpc.storage.events.contract import SinkUnavailable
from sfm_grpc.storage.events.librdkafka import SILENT, words
from sfm_grpc.storage.events.options import KafkaOptions, Property
from sfm_grpc.storage.outbox_contract import StoredEvent

# What the promises rest on.
FIXED: dict[str, Property] = {
    "enable.idempotence": True,
    "acks": "all",
    "message.timeout.ms": 0,
    "enable.gapless.guarantee": True,
}
_USUAL: dict[str, Property] = {
    "linger.ms": 1,
    # As Java's clients do, so that others' topics with the same keys are partitioned alike.
    "partitioner": "murmur2_random",
    # Whether a message is too large is the topic's to say.
    "message.max.bytes": 64 << 20,
}
_POLL_S = 0.1
_CHECK_S = 3.0
# What was said of trouble is believed for so long, where nothing else is known.
_TROUBLE_S = 15.0


class KafkaSink:
    """`storage.events.contract.EventSink` on a Kafka cluster."""

    name = "kafka"

    def __init__(self, options: KafkaOptions, form: CloudEvents) -> None:
        """Connects to nothing yet; `form` is what events are sent as.

        Raises ValueError for properties that librdkafka does not know, or values it does not take.
        """
        self._options = options
        self._form = form
        self._sending = ThreadPoolExecutor(1, thread_name_prefix="kafka-send")
        self._checking = ThreadPoolExecutor(1, thread_name_prefix="kafka-check")
        self._closing = threading.Event()
        self._making = threading.Lock()
        self._careful = False
        """An event was refused: they go one by one until it has gone through, or those behind it would come over and over."""
        self._trouble = ("", 0.0)
        """What librdkafka last said was wrong, and when, on time.monotonic()."""
        try:
            self._producer: Producer | None = self._made()
        except KafkaException as error:
            raise ValueError(words(error.args[0])) from error

    def _made(self) -> Producer:
        return Producer({**_USUAL, **self._options.client, **FIXED, "error_cb": self._heard}, logger=SILENT)

    def _heard(self, error: KafkaError) -> None:
        # That all brokers are down says less than why the last one is.
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._trouble[0]:
            self._trouble = (words(error), time.monotonic())

    def _opened(self) -> Producer:
        with self._making:
            if self._producer is None:
                self._producer = self._made()
            return self._producer

    # ---- how it is

    async def check(self) -> str:
        """See the contract."""
        return await asyncio.get_running_loop().run_in_executor(self._checking, self._check)

    def _check(self) -> str:
        producer, missing, until_s = self._opened(), [], time.monotonic() + _CHECK_S
        try:
            for topic in self._options.topics:
                found = producer.list_topics(topic, timeout=max(_POLL_S, until_s - time.monotonic()))
                if found.topics[topic].error is not None:
                    missing.append(topic)
        except KafkaException as error:
            producer.poll(0)  # what it has heard of why
            raise SinkUnavailable(self._why(words(error.args[0]))) from error
        there = f"Kafka at {self._options.bootstrap}"
        return f"{there}; it has no topic {', '.join(missing)}" if missing else there

    def _why(self, otherwise: str) -> str:
        trouble, since_s = self._trouble
        told = trouble if trouble and time.monotonic() - since_s < _TROUBLE_S else otherwise
        return f"Kafka at {self._options.bootstrap}: {told}"

    # ---- sending

    async def send(self, events: Sequence[StoredEvent]) -> None:
        """See the contract."""
        given_up = threading.Event()
        work = asyncio.get_running_loop().run_in_executor(self._sending, self._send, events, given_up)
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            given_up.set()
            await asyncio.wait([work])
            if not work.cancelled():
                work.exception()
            raise

    def _send(self, events: Sequence[StoredEvent], given_up: threading.Event) -> None:
        producer, at_once = self._opened(), 1 if self._careful else len(events)
        for at in range(0, len(events), at_once):
            batch = self._delivered(producer, events[at : at + at_once], given_up)
            if batch.failure is not None or batch.left:
                self._discard()
                self._careful |= batch.failure is not None
                raise SinkUnavailable(self._refused(batch), at + batch.taken)
        self._careful = False
        self._trouble = ("", 0.0)

    def _delivered(self, producer: Producer, events: Sequence[StoredEvent], given_up: threading.Event) -> _Batch:
        """Sends these and waits until all have arrived, one is refused, or they are given up; what became of them."""
        batch = _Batch(len(events))
        try:
            for place, event in enumerate(events):
                r = self._form.record(event)
                producer.produce(r.topic, r.value, r.key, headers=r.headers, on_delivery=partial(batch.told, place))
            while batch.left and batch.failure is None and not (given_up.is_set() or self._closing.is_set()):
                producer.poll(_POLL_S)
        except KafkaException as error:
            batch.failure = error.args[0]
        return batch

    def _refused(self, batch: _Batch) -> str:
        if batch.failure is None:
            return "given up"
        refused = f" ({batch.topic})" if batch.topic else ""
        return f"Kafka at {self._options.bootstrap} refuses an event{refused}: {words(batch.failure)}"

    def _discard(self) -> None:
        """Nothing of what it has is delivered any more but what is on its way; that is in order, too, and was to come."""
        with self._making:
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.poll(0)

    async def close(self) -> None:
        """See the contract."""
        self._closing.set()
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        for threads in (self._sending, self._checking):
            threads.shutdown(wait=True)
        self._discard()


class _Batch:
    """What became of a batch; told by librdkafka, in the thread that polls."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.failure: KafkaError | None = None
        """The first."""
        self.topic = ""
        self._arrived = bytearray(size)

    def told(self, place: int, error: KafkaError | None, message: Message) -> None:
        self.left -= 1
        if error is None:
            self._arrived[place] = 1
        elif self.failure is None:
            self.failure, self.topic = error, message.topic() or ""

    @property
    def taken(self) -> int:
        """How many have arrived before the first that has not."""
        first = self._arrived.find(0)
        return len(self._arrived) if first < 0 else first
