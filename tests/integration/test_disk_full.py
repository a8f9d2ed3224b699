"""A disk that is full: writes fail with a sentence, reads go on, and writes succeed again when there is room."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
from sfm.v1 import health_pb2, rho_store_pb2

from sfm_grpc.model import Kind
from tests.conftest import Spawn
from tests.support.bulk import Resumed, line_of
from tests.support.drivers import Put
from tests.support.matrices import density, sketch
from tests.support.memories import Memories
from tests.support.messages import commit_of
from tests.support.processes import ServerProcess, health_stub, rho_stub
from tests.support.refusals import Refusal, refusal_of
from tests.support.servers import until

BIG = sketch(256, 256)  # half a megabyte


class Disk(Protocol):
    """Where a server's data lies."""

    directory: Path

    def settings(self) -> dict[str, object]:
        """What the server is told besides."""

    def fill(self, server: ServerProcess) -> None: ...

    def free(self, server: ServerProcess) -> None: ...


class SmallDisk:
    """A file system of its own, of eight megabytes: ENOSPC, as in life. Needs the right to mount."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ballast = directory / "ballast"

    def settings(self) -> dict[str, object]:
        return {}

    def fill(self, server: ServerProcess) -> None:
        with contextlib.suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))

    def free(self, server: ServerProcess) -> None:
        self._ballast.unlink()


class ShortFiles:
    """The operating system's limit on the size of a file: any user may lower it, and a write beyond it fails."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def settings(self) -> dict[str, object]:
        return {"file_bytes_max": 1 << 30}

    def fill(self, server: ServerProcess) -> None:
        # The log may grow no further than it is.
        size = (self.directory / "data" / "sfm.db-wal").stat().st_size
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def free(self, server: ServerProcess) -> None:
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextlib.contextmanager
def mounted(directory: Path) -> Iterator[bool]:
    """A small file system on `directory`; whether this user may have one."""
    directory.mkdir()
    mount = shutil.which("mount") if os.geteuid() == 0 else None
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", directory], capture_output=True, check=False)
    try:
        yield bool(done) and done.returncode == 0
    finally:
        if done and done.returncode == 0:
            subprocess.run(["umount", directory], check=True)


@pytest.fixture(params=["a full file system", "a limit on files"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """Both ways to have no room; where a user may not mount, the second one twice."""
    with mounted(tmp_path / "small") as small:
        if request.param == "a full file system" and small:
            yield SmallDisk(tmp_path / "small")
        else:
            yield ShortFiles(tmp_path)


async def attempt(stub: Any, request: Any) -> Refusal | Any:
    try:
        return await stub.CommitRho(request, timeout=20)
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)


# `disk` comes before `spawn`, so that the server has ended when the disk goes.
async def test_a_full_disk_refuses_commits_and_nothing_else(disk: Disk, spawn: Spawn) -> None:
    server = await spawn().start(data_dir=disk.directory / "data", **disk.settings())
    async with server.channel() as channel:
        stub = rho_stub(channel)
        await stub.CommitRho(commit_of(Put("rho", density()), Put("big", BIG, kind=Kind.GENERIC)))
        disk.fill(server)

        told = await attempt(stub, commit_of(Put("big", -BIG, kind=Kind.GENERIC), expected=1, request_id="r"))
        assert isinstance(told, Refusal)
        assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert told.retry_delay_s > 0
        assert "disk" in told.facts["problem"]

        for freshness in ({}, {"consistency": 2}):
            read = await stub.GetRho(
                rho_store_pb2.GetRhoRequest(namespace="n", view=rho_store_pb2.VIEW_FULL, freshness=freshness)
            )
            assert (read.version, read.matrices[0].matrix.data) == (1, BIG.tobytes())
        health = await health_stub(channel).GetHealth(health_pb2.GetHealthRequest())
        assert (health.live, health.psd_ok) == (True, True)

        disk.free(server)
        request = commit_of(Put("big", -BIG, kind=Kind.GENERIC), expected=1, request_id="r")
        done = await until(lambda: succeeded(stub, request))
        assert (done.version, done.replayed) == (2, False)
        read = await stub.GetRho(rho_store_pb2.GetRhoRequest(namespace="n", view=rho_store_pb2.VIEW_FULL))
        assert (read.version, read.matrices[0].matrix.data) == (2, (-BIG).tobytes())
    server.terminate()
    assert await server.ended() == 0


async def succeeded(stub: Any, request: Any) -> Any:
    answer = await attempt(stub, request)
    return None if isinstance(answer, Refusal) else answer


async def test_what_a_full_disk_refused_is_not_there_after_a_restart(disk: Disk, spawn: Spawn) -> None:
    server = await spawn().start(data_dir=disk.directory / "data", **disk.settings())
    async with server.channel() as channel:
        stub = rho_stub(channel)
        await stub.CommitRho(commit_of(Put("big", BIG, kind=Kind.GENERIC)))
        disk.fill(server)
        for _ in range(3):
            assert isinstance(await attempt(stub, commit_of(Put("big", -BIG, kind=Kind.GENERIC), expected=1)), Refusal)
    server.kill()
    await server.ended()
    with contextlib.suppress(ProcessLookupError):
        disk.free(server)
    again = await spawn().start(data_dir=disk.directory / "data")
    async with again.channel() as channel:
        read = await rho_stub(channel).GetRho(rho_store_pb2.GetRhoRequest(namespace="n", view=rho_store_pb2.VIEW_FULL))
        assert (read.version, read.matrices[0].matrix.data) == (1, BIG.tobytes())
        done = await rho_stub(channel).CommitRho(commit_of(Put("big", -BIG, kind=Kind.GENERIC), expected=1))
        assert done.version == 2


LINES = [line_of(f"k{n:04}", {"n": n, "text": "x" * 3000}) for n in range(600)]
BATCH = 20


@pytest.mark.parametrize("killed", [False, True], ids=["goes on", "is killed"])
async def test_an_import_that_fills_the_disk_is_resumed_when_there_is_room(disk: Disk, spawn: Spawn, killed: bool) -> None:
    """Requests are of several transactions: of one that is not answered for, the first ones may be there, each whole."""
    told: dict[str, Any] = {"data_dir": disk.directory / "data", "batch_max": BATCH}
    server = await spawn().start(**told, **disk.settings())
    async with server.channel() as channel:
        memories = Memories(channel)
        lines = Resumed(LINES)
        assert await lines.go_on(memories, up_to=100) is None
        disk.fill(server)

        refusal = await lines.go_on(memories)
        assert refusal is not None
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert (refusal.retry_delay_s or 0) > 0
        assert "disk" in refusal.facts["problem"]
        there = await lines.kept(memories)
        assert there - lines.through in range(0, lines.at_once, BATCH)
        if killed:
            server.kill()
            await server.ended()
        with contextlib.suppress(ProcessLookupError):
            disk.free(server)
    if killed:
        server = await spawn().start(**told)
    async with server.channel() as channel:
        memories = Memories(channel)
        assert await lines.kept(memories) == there
        await until(lambda: lines.all_told(memories))
        assert await lines.kept(memories) == len(LINES)
        assert (lines.through, lines.created + lines.updated) == (len(LINES), len(LINES))
    server.terminate()
    assert await server.ended() == 0
