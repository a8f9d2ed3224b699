"""Graphs of the embedded index: built while it goes on answering, on a copy that then counts; and nothing is lost on the way."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from sfm_grpc.model import MemoryFilter
from sfm_grpc.storage.vectors.contract import Field
from sfm_grpc.storage.vectors.edge import EdgeIndex
from tests.vectors.given import Plain, a_field, a_point, assert_same, found, scanned, some_points, vectors
from tests.vectors.test_edge import engines

FIELD = a_field(dimension=16)
# Nothing is measured: graphs are built by a process that everything else on the machine comes before.
WAIT_S = 240.0


@pytest.fixture
async def edge(edge_directory: Path) -> AsyncIterator[EdgeIndex]:
    """One that builds for every few hundred points."""
    index = EdgeIndex(edge_directory, graph_points_min=300)
    await index.open()
    yield index
    await index.close()


async def until(so: Callable[[], bool], hope: str) -> None:
    end = time.monotonic() + WAIT_S
    while not so():
        assert time.monotonic() < end, hope
        await asyncio.sleep(0.02)


def generations(directory: Path, field: Field = FIELD) -> list[str]:
    """What lies in a geometry's directory, but for the note that says which counts."""
    there = directory / f"{field.dimension}-{field.distance.name.lower()}"
    return sorted(path.name for path in there.iterdir() if not path.name.startswith("current"))


async def test_nothing_is_lost_while_generations_change(edge: EdgeIndex, edge_directory: Path) -> None:
    plain = Plain()
    answers: list[int] = []

    async def ask() -> None:
        while True:
            answers.append(await edge.count(FIELD))
            await asyncio.sleep(0.01)

    asking = asyncio.create_task(ask())
    step = 0

    async def feed() -> None:
        nonlocal step
        points = [a_point(f"k{i}", v, revision=step + 1) for i, v in enumerate(vectors(400, 16, seed=step), 50 * step)]
        gone = [f"k{i}" for i in range(50 * step - 20, 50 * step)]
        plain.apply(FIELD, points, gone)
        await edge.apply(FIELD, points, gone)
        step += 1

    await feed()
    while generations(edge_directory)[0] < "g3":  # two of them are gone
        await feed()
        await asyncio.sleep(1.2 if step % 4 == 0 else 0.05)
        assert step < 200
    asking.cancel()
    assert sorted(await scanned(edge, FIELD, limit=500)) == sorted((p.key, p.revision) for p in plain.of(FIELD))
    vector = vectors(1, 16, seed=4)[0]
    assert_same(await found(edge, FIELD, by=vector), plain.search(FIELD, vector, MemoryFilter()))
    assert all(later >= count - 20 for count, later in itertools.pairwise(answers)), "no answer is older than one before it"
    await until(lambda: len(engines()) == 1, "one is left")


async def test_all_is_there_when_it_is_opened_again(edge: EdgeIndex, edge_directory: Path) -> None:
    points = some_points(1000, 16)
    await edge.apply(FIELD, points, [])
    await until(lambda: generations(edge_directory) == ["g2"], "graphs are built")
    await edge.apply(FIELD, some_points(3, 16, seed=3), [])
    await edge.close()
    again = EdgeIndex(edge_directory, graph_points_min=300)
    await again.open()
    assert sorted(await scanned(again, FIELD, limit=500)) == sorted((p.key, p.revision) for p in points)
    await again.close()
    assert generations(edge_directory) == ["g2"]


async def test_a_build_that_dies_leaves_what_is_served(edge: EdgeIndex, edge_directory: Path) -> None:
    points = some_points(1500, 16)
    await edge.apply(FIELD, points, [])
    (serving,) = engines()
    await until(lambda: len(engines()) == 2, "a second process builds")
    (building,) = (process for process in engines() if process != serving)
    building.send_signal(signal.SIGKILL)
    await until(lambda: generations(edge_directory) == ["g1"], "what it had is removed")
    assert engines() == [serving]
    await edge.apply(FIELD, [], [points[0].key])
    assert await edge.count(FIELD) == 1499


async def test_what_is_served_dies_while_graphs_are_built(edge: EdgeIndex, edge_directory: Path) -> None:
    await edge.apply(FIELD, some_points(1500, 16), [])
    (serving,) = engines()
    await until(lambda: len(engines()) == 2, "a second process builds")
    serving.send_signal(signal.SIGKILL)
    psutil.wait_procs([serving], timeout=5)
    await edge.apply(FIELD, [a_point("new", vectors(1, 16)[0])], ["k/000"])
    assert await edge.count(FIELD) == 1500
    await until(lambda: generations(edge_directory) in (["g1"], ["g2"]), "and one is left")
    assert await edge.count(FIELD) == 1500


@pytest.mark.parametrize("after_s", [0.0, 1.0, 1.2, 1.5])
async def test_it_may_be_closed_at_any_moment(edge: EdgeIndex, edge_directory: Path, after_s: float) -> None:
    points = some_points(1500, 16)
    await edge.apply(FIELD, points, [])
    await asyncio.sleep(after_s)
    await edge.close()
    assert engines() == []
    again = EdgeIndex(edge_directory)
    await again.open()
    try:
        assert await again.count(FIELD) == 1500
    finally:
        await again.close()


async def test_it_may_be_discarded_while_graphs_are_built(edge: EdgeIndex, edge_directory: Path) -> None:
    await edge.apply(FIELD, some_points(1500, 16), [])
    await until(lambda: len(engines()) == 2, "a second process builds")
    await edge.discard(FIELD.dimension, FIELD.distance)
    assert engines() == []
    assert not (edge_directory / "16-cosine").exists()
    await edge.apply(FIELD, some_points(10, 16), [])
    assert await edge.count(FIELD) == 10


async def test_a_graph_finds_the_nearest(edge: EdgeIndex, edge_directory: Path) -> None:
    """As many numbers as it takes for a graph to be gone by, also where a quarter is left out: 2625 vectors, 21 MB.

    It finds 96 to 100 of a hundred: 90 leaves chance its room, and a graph that is gone by badly finds 85.
    """
    field, count = a_field(dimension=2048), 3500
    centres = vectors(60, 2048)
    block = (centres[np.arange(count) % 60] + 0.7 * vectors(count, 2048, seed=1)).astype("<f4")
    kinds = ("fact", "fact", "fact", "episode")
    points = [a_point(f"k{i}", v, revision=i + 1, memory_type=kinds[i % 4]) for i, v in enumerate(block)]
    plain = Plain()
    for start in range(0, count, 500):
        plain.apply(field, points[start : start + 500], [])
        await edge.apply(field, points[start : start + 500], [])
    await until(lambda: generations(edge_directory, field) == ["g2"], "graphs are built")
    for chosen in (MemoryFilter(), MemoryFilter(memory_types=("fact",))):
        hits = 0
        for vector in (centres[:20] + 0.7 * vectors(20, 2048, seed=2)).astype("<f4"):
            told = await found(edge, field, chosen, by=vector, limit=10)
            expected = plain.search(field, vector, chosen, limit=100)
            hits += len({hit.key for hit in told} & {hit.key for hit in expected[:10]})
            exact = {hit.key: hit.score for hit in expected}
            assert [hit.score for hit in told] == pytest.approx([exact[hit.key] for hit in told], rel=1e-4)
        assert hits >= 0.9 * 200
