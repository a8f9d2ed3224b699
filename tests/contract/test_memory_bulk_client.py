"""import_lines and export_lines, blocking and asyncio: they go on where they were, whatever happens to the server."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from sfm_grpc.client import AsyncClient, Client, ImportReport, InvalidRequest, LimitExceeded, NotFound, Unreachable, bulk_lines
from sfm_grpc.client.bulk_lines import Pieces
from sfm_grpc.settings import Settings
from tests.conftest import Serve, Spawn
from tests.support.bulk import joined, line_of
from tests.support.servers import Server, store_of

pytestmark = pytest.mark.engines("sqlite", "postgres")


class Either:
    """The memories of either client, awaited."""

    def __init__(self, memories: Any) -> None:
        self._memories = memories
        self._is_blocking = type(memories).__name__ == "Memories"

    async def import_lines(self, source: Any, **how: Any) -> ImportReport:
        if self._is_blocking:
            return await asyncio.to_thread(self._memories.import_lines, source, **how)
        return await self._memories.import_lines(source, **how)

    async def export_lines(self, **how: Any) -> list[bytes]:
        if self._is_blocking:
            return await asyncio.to_thread(lambda: list(self._memories.export_lines(**how)))
        return [line async for line in self._memories.export_lines(**how)]


@pytest.fixture(params=["sync", "asyncio"])
async def memories(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Either]:
    if request.param == "sync":
        with Client(server.app.address, name="test") as blocking:
            yield Either(blocking.namespace("n").memories)
    else:
        async with AsyncClient(server.app.address, name="test") as client:
            yield Either(client.namespace("n").memories)


def lines(count: int, **how: Any) -> list[bytes]:
    return [line_of(f"k{n:05}", {"n": n}, **how) for n in range(count)]


def test_pieces_are_whole_lines_numbered_as_in_the_file() -> None:
    text = b"".join(b"%d" % n * (n % 7) + b"\n" for n in range(1, 200)) + b"last"
    for size in (1, 2, 10, 100, 10_000):
        for from_line in (1, 2, 57, 200, 201):
            for source in (io.BytesIO(text), text.split(b"\n"), (t.decode() + "\n" for t in text.split(b"\n"))):
                pieces = Pieces(source, from_line)
                pieces.piece_bytes = size
                found = list(iter(pieces.next, None))
                assert b"".join(p.lines for p in found).rstrip(b"\n") == b"\n".join(text.split(b"\n")[from_line - 1 :])
                expected = from_line
                for piece in found:
                    assert piece.first_line == expected
                    expected += piece.count


async def test_lines_come_from_anywhere(memories: Either) -> None:
    said = lines(250, vector=(1.0, 2.0))
    sources: list[Any] = [said, (line.decode() for line in said), io.BytesIO(joined(*said)), io.StringIO(joined(*said).decode())]
    for place, source in enumerate(sources):
        report = await memories.import_lines(source)
        assert (report.through_line, report.created + report.updated, report.failed) == (250, 250, 0)
        assert (report.created > 0) is (place == 0)
    out = await memories.export_lines()
    assert [json.loads(line)["key"] for line in out] == [f"k{n:05}" for n in range(250)]
    assert all(line.endswith(b"\n") for line in out)
    assert (await memories.import_lines(out, mode="create_only")).existing == 250
    assert await memories.import_lines([]) == ImportReport(0)


async def test_lines_may_come_asynchronously(server: Server) -> None:
    async def source() -> AsyncIterator[bytes]:
        for line in lines(50):
            await asyncio.sleep(0)
            yield line

    async with AsyncClient(server.app.address) as client:
        assert (await client.namespace("n").memories.import_lines(source())).created == 50


async def test_a_report_tells_all_of_it(memories: Either) -> None:
    said = [*lines(3), b"{", *lines(2), line_of("x", vector="?")]
    seen: list[ImportReport] = []
    report = await memories.import_lines(said, from_line=3, on_progress=seen.append)
    assert (report.through_line, report.created, report.updated, report.existing, report.failed) == (7, 3, 0, 0, 2)
    assert [(e.line, e.key, e.field, e.reason) for e in report.errors] == [
        (4, "", "", "INVALID_REQUEST"),
        (7, "x", "vector", "INVALID_REQUEST"),
    ]
    assert seen[-1] == report
    assert (await memories.import_lines(said, validate_only=True, mode="create_only")).existing == 5


@pytest.mark.settings(batch_bytes_max=65_536)
async def test_pieces_become_as_small_as_the_server_takes(memories: Either) -> None:
    said = [*lines(900), line_of("large", "x" * 70_000), *lines(1200)[900:]]
    report = await memories.import_lines(said)
    assert (report.through_line, report.created, report.failed) == (1201, 1200, 1)
    [error] = report.errors
    assert (error.line, error.reason) == (901, "LIMIT_EXCEEDED")
    assert error.problem.startswith("batch_bytes_max is 65536, this has 70")


async def test_mistakes_are_told_at_once(memories: Either) -> None:
    for how in ({"mode": "replace"}, {"from_line": 0}):
        with pytest.raises(InvalidRequest):
            await memories.import_lines([], **how)
    with pytest.raises(NotFound):
        await memories.export_lines()
    await memories.import_lines(lines(1))
    with pytest.raises(InvalidRequest):
        await memories.export_lines(importance=(2, 1))
    with pytest.raises(LimitExceeded):
        await memories.export_lines(memory_types=[str(n) for n in range(65)])


async def test_where_no_server_is_that_is_told_soon() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(Unreachable) as caught:
        await asyncio.to_thread(client.namespace("n").memories.import_lines, lines(1))
    assert "from_line=1 goes on" in "".join(caught.value.__notes__)


# ---- servers that end


async def test_an_import_survives_its_server(spawn: Spawn, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed in the middle and comes back on its port: the set is exactly that of the lines, and each is there once."""
    server = await spawn().start(**store_of(settings))
    monkeypatch.setattr(bulk_lines, "_PIECE_BYTES", 60_000)
    address, killed = server.address, asyncio.Event()
    loop = asyncio.get_running_loop()
    said = lines(6000, vector=(1.0, 2.0))
    said[3456] = b"{"
    answered: list[int] = []

    def told(report: ImportReport) -> None:
        answered.append(report.through_line)
        if report.through_line >= 2000:
            loop.call_soon_threadsafe(killed.set)

    def work() -> ImportReport:
        with Client(address) as client:
            return client.namespace("n").memories.import_lines(said, on_progress=told)

    importing = asyncio.ensure_future(asyncio.to_thread(work))
    await killed.wait()
    server.kill()
    await server.ended()
    again = await spawn().start(**store_of(settings), listen=address)
    report = await importing
    assert answered == sorted(set(answered))
    assert (report.through_line, report.failed, [e.line for e in report.errors]) == (6000, 1, [3457])
    # What was sent twice may be counted as updated where it had been created.
    assert report.created + report.updated == 5999
    async with AsyncClient(again.address) as client:
        memories = client.namespace("n").memories
        keys = [json.loads(line)["key"] async for line in memories.export_lines()]
        assert keys == [f"k{n:05}" for n in range(6000) if n != 3456]
        assert (await memories.describe()).memories == 5999


async def test_an_import_goes_on_elsewhere_when_its_server_drains(serve: Serve, settings: Settings) -> None:
    one, two = await serve(settings), await serve(settings)
    said = lines(3000)
    drained = asyncio.Event()

    def drain() -> None:
        one.app._guard.end_streams()
        drained.set()

    def source() -> Iterator[bytes]:
        for place, line in enumerate(said):
            if place == 1500:
                loop.call_soon_threadsafe(drain)
            yield line

    def work() -> ImportReport:
        with Client(f"ipv4:{one.app.address},{two.app.address}") as client:
            return client.namespace("n").memories.import_lines(source(), retry_s=20)

    loop = asyncio.get_running_loop()
    importing = asyncio.ensure_future(asyncio.to_thread(work))
    await drained.wait()
    await one.app._server.stop(5)
    report = await importing
    assert (report.through_line, report.created + report.updated, report.failed) == (3000, 3000, 0)


async def test_an_export_survives_its_server(spawn: Spawn, settings: Settings) -> None:
    server = await spawn().start(**store_of(settings))
    address = server.address
    async with AsyncClient(address) as client:
        memories = client.namespace("n").memories
        await memories.import_lines(line_of(f"k{n:05}", "x" * 10_000) for n in range(1000))
        found: list[bytes] = []
        async for line in memories.export_lines():
            found.append(line)
            if len(found) == 200:
                server.kill()
                await server.ended()
                await spawn().start(**store_of(settings), listen=address)
        assert [json.loads(line)["key"] for line in found] == [f"k{n:05}" for n in range(1000)]
