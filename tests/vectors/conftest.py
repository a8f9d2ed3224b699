"""Each index in turn, open and empty."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from sfm_grpc.storage.vectors.contract import VectorIndex
from sfm_grpc.storage.vectors.edge import EdgeIndex
from sfm_grpc.storage.vectors.qdrant import QdrantIndex
from tests.support.services.qdrant import RunningQdrant

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


@pytest.fixture
def another_qdrant(qdrant_service: RunningQdrant, qdrant_prefix: str) -> Another:
    return lambda: QdrantIndex(qdrant_service.url, qdrant_service.api_key, prefix=qdrant_prefix)
