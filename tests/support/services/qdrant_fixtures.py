"""Fixtures of Qdrant: started when a test first asks."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Protocol

import pytest

from tests.support.services.absence import AbsentError, skip_or_fail
from tests.support.services.qdrant import QdrantStandIn, RunningQdrant, find_qdrant, own_qdrant


@pytest.fixture(scope="session")
def qdrant_service() -> Iterator[RunningQdrant]:
    """One for all tests of this process: tell your collections apart by a prefix, and leave it running."""
    with contextlib.closing(find_qdrant()) as service:
        yield service


@pytest.fixture
def qdrant_prefix(qdrant_service: RunningQdrant) -> Iterator[str]:
    """What the names of the test's own collections begin with; they go with the test."""
    prefix = f"sfm-test-{uuid.uuid4().hex[:12]}"
    yield prefix
    qdrant_service.forget(prefix)


class StartQdrant(Protocol):
    def __call__(self, *, version: str = ..., api_key: str | None = ...) -> QdrantStandIn:
        """A running stand-in of the test's own, to be killed, frozen, emptied."""


@pytest.fixture
def start_qdrant() -> Iterator[StartQdrant]:
    with contextlib.ExitStack() as stack:

        def start(*, version: str = "1.19.0", api_key: str | None = None) -> QdrantStandIn:
            try:
                made = own_qdrant(version=version, api_key=api_key)
            except AbsentError as absent:
                skip_or_fail(absent)
            return stack.enter_context(made)

        yield start
