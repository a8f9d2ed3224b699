"""Fixtures of Kafka: the mock cluster always; a real broker where `SFM_TEST_KAFKA_URL` names one, or Java and Maven are."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pytest

from tests.support.services.absence import AbsentError, skip_or_fail
from tests.support.services.kafka_broker import KafkaBroker, MockKafka
from tests.support.services.kafka_programs import search

URL = "SFM_TEST_KAFKA_URL"


class StartMockKafka(Protocol):
    def __call__(self, brokers: int = 1) -> MockKafka:
        """A running cluster of the test's own."""


@pytest.fixture
def mock_kafka() -> Iterator[StartMockKafka]:
    """Starts mock clusters, to be killed and frozen."""
    with contextlib.ExitStack() as stack:
        yield lambda brokers=1: stack.enter_context(MockKafka(brokers))


class StartKafka(Protocol):
    def __call__(self) -> KafkaBroker:
        """A running broker of the test's own."""


def _started(stack: contextlib.ExitStack) -> KafkaBroker:
    found = search()
    if isinstance(found, str):
        skip_or_fail(AbsentError("kafka", [found]))
    return stack.enter_context(KafkaBroker(found))


@pytest.fixture
def kafka_server() -> Iterator[StartKafka]:
    """Starts brokers, to be stopped, killed, frozen."""
    with contextlib.ExitStack() as stack:
        yield lambda: _started(stack)


@pytest.fixture(scope="session")
def kafka_service() -> Iterator[str]:
    """The address of one broker for all tests of this process: tell your topics apart, and leave it running."""
    if url := os.environ.get(URL):
        yield url
        return
    with contextlib.ExitStack() as stack:
        yield _started(stack).bootstrap


@dataclass(frozen=True)
class Kafka:
    """A cluster, and topics in it that are the test's own."""

    bootstrap: str
    prefix: str

    @property
    def settings(self) -> dict[str, object]:
        """What a server is told."""
        names = ("rho_status", "memory_event", "prune_result", "prune_order", "prune_order_dlq")
        topics = {f"kafka_topic_{name}": self.topic(name) for name in names}
        return {"kafka_bootstrap": self.bootstrap, "kafka_group": self.prefix, **topics}

    def topic(self, name: str) -> str:
        """Where a kind of event goes."""
        return f"{self.prefix}.{name}"


@pytest.fixture
def kafka(request: pytest.FixtureRequest) -> Kafka:
    """For tests that do not harm it: a real broker beside Postgres, the mock beside everything else."""
    beside = request.getfixturevalue("settings") if "settings" in request.fixturenames else None
    if beside is not None and beside.postgres_url is not None:
        bootstrap = str(request.getfixturevalue("kafka_service"))
    else:
        bootstrap = request.getfixturevalue("mock_kafka")().bootstrap
    return Kafka(bootstrap, f"t-{uuid.uuid4().hex[:12]}")
