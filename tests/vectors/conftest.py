"""Each index in turn, open and empty."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from qdrant_client import QdrantClient

from sfm_grpc.storage.vectors.contract import VectorIndex
from sfm_grpc.storage.vectors.edge import EdgeIndex
from sfm_grpc.storage.vectors.qdrant import QdrantIndex
from tests.support.services.absence import AbsentError, skip_or_fail
from tests.support.services.qdrant import QdrantStandIn, RunningQdrant, find_qdrant, own_qdrant

Another = Callable[[], VectorIndex]
"""Makes one that has not been opened, on what the last one left."""


@pytest.fixture(params=["edge", "qdrant"])
def another(request: pytest.FixtureRequest) -> Another:
    made: Another = request.getfixturevalue(f"another_{request.param}")
    return made


@pytest.fixture
async def index(another: Another) -> AsyncIterator[VectorIndex]:
    opened = another()
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def edge_directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "index"
    shutil.rmtree(tmp_path / "index", ignore_errors=True)  # forty megabytes, and pytest keeps the last three


@pytest.fixture
def another_edge(edge_directory: Path) -> Another:
    return lambda: EdgeIndex(edge_directory)


@pytest.fixture(scope="session")
def qdrant_service() -> Iterator[RunningQdrant]:
    """One for all tests of this process: tell your collections apart by a prefix, and leave it running."""
    with contextlib.closing(find_qdrant()) as service:
        yield service


@pytest.fixture
def another_qdrant(qdrant_service: RunningQdrant) -> Iterator[Another]:
    prefix = f"sfm-test-{uuid.uuid4().hex[:12]}"
    yield lambda: QdrantIndex(qdrant_service.url, qdrant_service.api_key, prefix=prefix)
    port = int(qdrant_service.url.rsplit(":", 1)[1])
    client = QdrantClient(host="127.0.0.1", grpc_port=port, prefer_grpc=True, check_compatibility=False)
    with contextlib.closing(client):
        for collection in client.get_collections().collections:
            if collection.name.startswith(prefix):
                client.delete_collection(collection.name)


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
