"""The embedded index's own: what its processes and its files survive, and what is said where they do not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest

from sfm_grpc.errors import IndexUnavailable
from sfm_grpc.model import Distance
from sfm_grpc.storage.vectors.contract import IndexDamaged
from sfm_grpc.storage.vectors.edge import EdgeIndex
from sfm_grpc.storage.vectors.embedded import early
from tests.support.paths import ROOT
from tests.vectors import feeder
from tests.vectors.given import a_field, a_point, found, keys, scanned, some_points

FIELD = a_field()
PROCESS = "sfm_grpc.storage.vectors.embedded.process"


@pytest.fixture
async def edge(edge_directory: Path) -> AsyncIterator[EdgeIndex]:
    index = EdgeIndex(edge_directory)
    await index.open()
    yield index
    await index.close()


def engines(owner: int | None = None) -> list[psutil.Process]:
    """The processes of engines that live, ours or that one's."""

    def is_one(child: psutil.Process) -> bool:
        try:
            return PROCESS in " ".join(child.cmdline())
        except psutil.NoSuchProcess:
            return False

    return [child for child in psutil.Process(owner).children() if is_one(child)]


# ---- processes


async def test_what_was_acknowledged_survives_the_engines_death(edge: EdgeIndex) -> None:
    for i in range(3):
        await edge.apply(FIELD, some_points(300, seed=i), [f"k/{i:03}"])
        (process,) = engines()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert await edge.count(FIELD) == 299, "the index starts another by itself"
    assert {key for key, _ in await scanned(edge, FIELD, limit=100)} == {f"k/{i:03}" for i in range(300)} - {"k/002"}


async def test_who_waits_for_an_engine_that_dies_is_answered_by_the_next(edge: EdgeIndex) -> None:
    await edge.apply(FIELD, [a_point("k")], [])
    (process,) = engines()
    process.send_signal(signal.SIGSTOP)
    asking = [asyncio.create_task(edge.count(FIELD)), asyncio.create_task(edge.apply(FIELD, [a_point("l")], []))]
    await asyncio.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert await asyncio.gather(*asking) in ([1, []], [2, []])
    assert await keys(edge, FIELD) == {"k", "l"}


@contextlib.contextmanager
def feeding(directory: Path, size: int, graph_points_min: int) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-m", feeder.__name__, str(directory), str(size), str(graph_points_min)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("seed", range(5 if os.environ.get("SFM_TEST_THOROUGH") == "1" else 2))
async def test_what_was_acknowledged_survives_the_owners_death(edge_directory: Path, seed: int) -> None:
    """Also while graphs are built: some of these are killed in the middle of that."""
    chance = random.Random(seed)
    acknowledged, size = 0, 70
    with feeding(edge_directory, size, graph_points_min=400) as process:
        assert process.stdout is not None
        while acknowledged < 12:
            acknowledged = int(await asyncio.to_thread(process.stdout.readline))
        end = time.monotonic() + chance.uniform(0, 2.5)
        while time.monotonic() < end:
            acknowledged = int(await asyncio.to_thread(process.stdout.readline))
        children = engines(process.pid)
        process.kill()
        acknowledged = int((process.stdout.read().split() or [acknowledged])[-1])
    psutil.wait_procs(children, timeout=5)
    assert not any(child.is_running() for child in children), "they go with their owner"
    index = EdgeIndex(edge_directory)
    await index.open()
    try:
        there = dict(await scanned(index, feeder.FIELD, limit=500))
    finally:
        await index.close()
    for number in range(1, acknowledged + 1):
        for point in feeder.batch(number, size):
            assert there.pop(point.key, None) == point.revision, f"{point.key} of {acknowledged} batches"
    assert len(there) <= size, "at most the batch that was under way"


async def test_a_second_process_is_told(edge_directory: Path) -> None:
    with feeding(edge_directory, 5, graph_points_min=5_000) as process:
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        index = EdgeIndex(edge_directory)
        with pytest.raises(IndexUnavailable, match="is in use by another process; stop that one, or name another directory"):
            await index.open()
        process.kill()
        process.wait()
        await index.open()
        assert await index.count(feeder.FIELD) >= 5
        await index.close()


async def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    index = EdgeIndex(tmp_path / "file" / "index")
    with pytest.raises(IndexUnavailable, match="cannot be used: Not a directory"):
        await index.open()
    await index.close()


async def test_callers_that_give_up_harm_nobody(edge: EdgeIndex) -> None:
    tasks = [asyncio.create_task(edge.apply(FIELD, [a_point(f"k{i}")], [])) for i in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await keys(edge, FIELD) >= {f"k{i}" for i in range(1, 20, 2)}
    assert len(engines()) == 1


async def test_nothing_runs_when_it_is_closed(edge: EdgeIndex) -> None:
    await edge.apply(FIELD, [a_point("k")], [])
    await edge.apply(a_field(dimension=3), [a_point("k")], [])
    assert len(engines()) == 1, "one was refused, so there is nothing"
    await edge.close()
    assert engines() == []


# ---- files


async def test_no_more_room(edge: EdgeIndex) -> None:
    await edge.apply(FIELD, [a_point("k")], [])
    (process,) = engines()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    async def feed() -> None:  # until its log would go on in a new file
        for i in range(40):
            await edge.apply(FIELD, [a_point(f"{i}/{j}", memory_type="x" * 4000) for j in range(500)], [])

    with pytest.raises(IndexUnavailable, match="a file would become larger than this user may have it"):
        await feed()
    assert await edge.apply(FIELD, [a_point("l")], []) == [], "another process, without the limit"
    assert {"k", "l"} <= await keys(edge, FIELD) | {key for key, _ in await scanned(edge, FIELD, limit=5000)}


def generation(directory: Path) -> Path:
    (found,) = (path for path in (directory / "8-cosine").iterdir() if path.name.startswith("g"))
    return found


def garble(path: Path) -> None:
    path.write_bytes(b"\x00not what was here\xff" * 3)


HARMS = {
    "current": lambda d: garble(d / "8-cosine" / "current"),
    "another format": lambda d: (d / "8-cosine" / "current").write_text('{"format": 99, "generation": "g1"}'),
    "no generation": lambda d: generation(d).rename(d / "elsewhere"),
    "config": lambda d: garble(generation(d) / "edge_config.json"),
    "segment": lambda d: garble(next(generation(d).glob("segments/*/segment.json"))),
    "ids": lambda d: garble(next(generation(d).glob("segments/*/mutable_id_tracker.mappings"))),
    "vectors": lambda d: os.truncate(next(generation(d).glob("segments/*/vector_storage/vectors/chunk_0.mmap")), 5),
    "log": lambda d: [garble(path) for path in generation(d).glob("wal/open-*")],
}


@pytest.mark.parametrize("harm", HARMS)
async def test_damage_is_told_and_can_be_undone(edge_directory: Path, harm: str) -> None:
    index = EdgeIndex(edge_directory)
    await index.open()
    other = a_field(distance=Distance.DOT)
    for field in (FIELD, other):
        await index.apply(field, some_points(20), [])
    await index.close()
    HARMS[harm](edge_directory)
    await index.open()
    try:
        for _ in range(2):
            with pytest.raises(IndexDamaged, match=str(edge_directory)):
                await found(index, FIELD)
            with pytest.raises(IndexUnavailable):
                await index.check()
        assert await index.count(other) == 20
        await index.discard(FIELD.dimension, FIELD.distance)
        assert await index.count(FIELD) == 0
        await index.apply(FIELD, some_points(20), [])
        assert len(await found(index, FIELD, now_us=0)) == 20
        await index.check()
    finally:
        await index.close()


# ---- engines that are started early


async def test_an_engine_that_was_started_early_is_taken(tmp_path: Path) -> None:
    directory = tmp_path / "index"
    index = EdgeIndex(directory)
    await index.open()
    await index.apply(FIELD, [a_point("a"), a_point("b")], [])
    early.start(directory)
    assert not early._waiting, "somebody has the directory"
    await index.close()
    early.start(directory)
    early.start(directory)
    ((generation, engine),) = early._waiting.items()
    assert generation.name == "g1"
    again = EdgeIndex(directory)
    await again.open()
    assert await again.count(FIELD) == 2
    assert not early._waiting
    assert engine.runs
    await again.close()
    assert not engine.runs


async def test_engines_that_nobody_takes_end_with_the_index(tmp_path: Path) -> None:
    directory = tmp_path / "index"
    early.start(directory)
    index = EdgeIndex(directory)
    await index.open()
    await index.apply(FIELD, [a_point("a")], [])
    await index.close()
    (directory / "odd").mkdir()
    early.start(directory)
    (engine,) = early._waiting.values()
    await EdgeIndex(tmp_path / "other").close()
    assert not early._waiting
    with pytest.raises(IndexUnavailable):
        await engine.ask({"do": "look"})


async def test_an_engine_that_was_started_early_and_died_is_started_again(tmp_path: Path) -> None:
    directory = tmp_path / "index"
    index = EdgeIndex(directory)
    await index.open()
    await index.apply(FIELD, [a_point("a")], [])
    await index.close()
    early.start(directory)
    (engine,) = early._waiting.values()
    engine._process.kill()
    again = EdgeIndex(directory)
    await again.open()
    assert await again.count(FIELD) == 1
    await again.close()
