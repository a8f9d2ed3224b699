"""SIGKILL at random moments of an import of the real data: what was answered for is there, once, and is found."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from sfm.v1 import memory_store_pb2 as pb
from sfm.v1 import memory_store_pb2_grpc

from sfm_grpc.settings import Settings
from tests.conftest import Spawn
from tests.support.bulk import joined
from tests.support.memories import Memories
from tests.support.processes import ServerProcess
from tests.support.servers import store_of

DATA = Path(__file__).parents[2] / "examples" / "cognitive_manager" / "data"
NAMES = (DATA / "stdlib_docs.names.txt").read_text().split()
VECTORS = np.load(DATA / "stdlib_docs.vectors.npy").astype("<f4")
KILLS = 4
LINES_AT_ONCE = 40

pytestmark = [pytest.mark.engines("sqlite", "postgres"), pytest.mark.timeout(600)]


def line(place: int) -> str:
    vector = base64.b64encode(VECTORS[place].tobytes()).decode()
    return json.dumps({"key": NAMES[place], "payload_json": json.dumps({"place": place}), "vector": vector})


@pytest.fixture
def told(request: pytest.FixtureRequest, settings: Settings) -> dict[str, object]:
    """The settings of all servers: beside Postgres the index is a Qdrant server's."""
    if settings.postgres_url is None:
        return store_of(settings)
    service = request.getfixturevalue("qdrant_service")
    return store_of(settings) | {"qdrant_url": service.url, "qdrant_prefix": request.getfixturevalue("qdrant_prefix")}


async def import_until_it_dies(memories: Memories, after: int) -> int:
    """Sends lines after these, a few at once; the last that was answered for."""
    call: Any = memories.stub.ImportMemories(timeout=120)
    header: Any = {"namespace": "n"}
    try:
        while after < len(NAMES):
            some = range(after, min(after + LINES_AT_ONCE, len(NAMES)))
            await call.write(pb.ImportMemoriesRequest(header=header, lines=joined(*map(line, some)), first_line=after + 1))
            header, answer = None, await call.read()
            if answer is grpc.aio.EOF:
                break
            assert (answer.failed, answer.through_line) == (0, some[-1] + 1)
            after = answer.through_line
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    finally:
        call.cancel()
    return after


async def kept(memories: Memories) -> list[str]:
    call: Any = memories.stub.ExportMemories(pb.ExportMemoriesRequest(namespace="n"), timeout=60)
    return [json.loads(each)["key"] async for chunk in call for each in chunk.lines.splitlines()]


async def index_report(channel: grpc.aio.Channel) -> pb.IndexReport:
    stub: Any = memory_store_pb2_grpc.MemoryStoreStub(channel)
    return [each async for each in stub.VerifyIndex(pb.VerifyIndexRequest(namespace="n"), timeout=120)][-1].report


async def killed_soon(server: ServerProcess, rng: random.Random) -> None:
    await asyncio.sleep(rng.uniform(0.05, 0.5))
    server.kill()


async def test_what_was_answered_for_is_there_once_and_is_found(spawn: Spawn, told: dict[str, object]) -> None:
    rng, done = random.Random(5), 0
    for _ in range(KILLS):
        server = await spawn().start(**told)
        async with server.channel() as channel:
            memories = Memories(channel)
            await check_kept(memories, done)
            killing = asyncio.create_task(killed_soon(server, rng))
            done = await import_until_it_dies(memories, done)
            await killing
        await server.ended()
    server = await spawn().start(**told)
    async with server.channel() as channel:
        memories = Memories(channel)
        await check_kept(memories, done)
        assert await import_until_it_dies(memories, done) == len(NAMES)
        assert await kept(memories) == sorted(NAMES, key=str.encode)
        report = await index_report(channel)
        assert (report.memories, report.points) == (len(NAMES), len(NAMES))
        assert (report.missing, report.orphaned, report.stale) == (0, 0, 0)
        for place in rng.sample(range(len(NAMES)), 200):
            await is_found(memories, place)


async def check_kept(memories: Memories, done: int) -> None:
    """What was answered for is there, and of the rest at most what was sent."""
    there = await kept(memories) if done else []
    assert len(there) == len(set(there)), "each once"
    assert set(NAMES[:done]) <= set(there) <= set(NAMES[: done + LINES_AT_ONCE])


async def is_found(memories: Memories, place: int) -> None:
    """Some have the same text, and so the same vector."""
    answer = await memories.ask("SearchMemories", namespace="n", vector={"data": VECTORS[place].tobytes()}, limit=20)
    assert NAMES[place] in [n.memory.key for n in answer.neighbours], NAMES[place]
