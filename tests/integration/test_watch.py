"""WatchRho between processes: several servers on one store, one that is killed, callers that are slow, clients that follow."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from sfm.v1 import rho_store_pb2

from sfm_grpc.client import AsyncClient, Client, Snapshot
from sfm_grpc.errors import Draining, InternalError, SfmError, VersionCompacted, VersionConflict
from sfm_grpc.model import Kind
from sfm_grpc.settings import Settings
from tests.conftest import Serve, Spawn
from tests.support.drivers import Put
from tests.support.matrices import density
from tests.support.messages import commit_of, seed
from tests.support.metrics import sample, samples
from tests.support.processes import ServerProcess, rho_stub
from tests.support.refusals import outcome, refused
from tests.support.servers import CHANNEL_OPTIONS, Server, store_of, until
from tests.support.services import ports
from tests.support.watching import Watcher, watch_channel

Watch = rho_store_pb2.WatchRhoRequest
KEPT = {"rho_history_versions": 10_000}
WITH_HTTP = {"http_listen": "127.0.0.1:0"}


@contextlib.asynccontextmanager
async def connected(server: ServerProcess) -> AsyncIterator[grpc.aio.Channel]:
    """A connection of its own: what is slow on one does not slow the others."""
    options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(server.address, options=options) as channel:
        yield channel


async def commit_at(stub: Any, at: int, put: Put) -> int:
    """Commits over whatever is there; returns the version."""
    while True:
        answer = await outcome(stub.CommitRho(commit_of(put, expected=at), timeout=30))
        if not isinstance(answer, SfmError):
            return int(answer.version)
        assert isinstance(answer, VersionConflict), answer
        at = answer.current


# ---- several servers ---------------------------------------------------------------------------------------------------


async def test_two_servers_tell_what_both_commit_in_order_without_a_gap(spawn: Spawn, settings: Settings) -> None:
    one, two = await asyncio.gather(*(spawn().start(**store_of(settings), **KEPT) for _ in range(2)))
    each, writers = 15, 4
    async with connected(one) as a, connected(two) as b:

        async def writer(place: int) -> dict[int, bytes]:
            won, at = {}, 0
            for turn in range(each):
                rho = density(seed=100 * place + turn)
                at = await commit_at(rho_stub((a, b)[place % 2]), at, Put("rho", rho))
                won[at] = rho.tobytes()
            return won

        async with watch_channel(a, after_version=0) as left, watch_channel(b, after_version=0) as right:
            total = each * writers
            *told, first, second, third, fourth = await asyncio.gather(
                left.take(total), right.take(total), *(writer(place) for place in range(writers))
            )
    won = first | second | third | fourth
    for seen in told:
        assert [t.version for t in seen] == list(range(1, total + 1))
        assert {t.version: t.matrices["rho"].numbers for t in seen} == won


async def test_no_read_of_any_server_is_older_than_what_a_watch_has_told(spawn: Spawn, settings: Settings) -> None:
    """Also of a version whose own commit has not been answered yet."""
    one, two = await asyncio.gather(*(spawn().start(**store_of(settings), **KEPT, watch_poll_ms=1) for _ in range(2)))
    total = 80
    async with connected(one) as a, connected(two) as b:

        async def writer() -> None:
            for version in range(total):
                await commit_at(rho_stub(a), version, Put("rho", density(seed=version)))

        async def reader(watched: grpc.aio.Channel, read: grpc.aio.Channel) -> None:
            async with watch_channel(watched, after_version=0, numbers=False) as watcher:
                for version in range(1, total + 1):
                    assert await watcher.numbers(1) == [version]
                    found = await rho_stub(read).GetRho(rho_store_pb2.GetRhoRequest(namespace="n"))
                    assert found.version >= version

        await asyncio.gather(writer(), reader(a, b), reader(b, a), reader(b, b))


@pytest.mark.engines("leased")
async def test_a_version_is_fenced_before_it_is_told(settings: Settings, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is durable, its own server has not come to fence it, and the lease of the version before still stands."""
    one, two = await serve(settings), await serve(settings)
    newest = rho_store_pb2.GetRhoRequest(namespace="n")

    async def leased() -> bool:
        return (await one.rho.GetRho(newest)).source == rho_store_pb2.SOURCE_CACHE

    await one.rho.CommitRho(commit_of(Put("rho", density(seed=1))))
    await until(leased)
    fences, go_on = one.app.fences, asyncio.Event()
    assert fences is not None
    tell = fences.tell

    async def later(*args: Any, **kwargs: Any) -> None:
        await go_on.wait()
        await tell(*args, **kwargs)

    monkeypatch.setattr(fences, "tell", later)
    async with watch_channel(two.channel, after_version=1) as watcher:
        committing = asyncio.ensure_future(one.rho.CommitRho(commit_of(Put("rho", density(seed=2)), expected=1)))
        telling = asyncio.create_task(watcher.numbers(1))
        while not telling.done():
            await one.rho.GetRho(newest)  # reads go on meanwhile, and fill
            await asyncio.sleep(0.005)
        assert await telling == [2]
        assert (await one.rho.GetRho(newest)).version == 2
        assert not committing.done()
        go_on.set()
        assert (await committing).version == 2


async def test_what_another_server_commits_is_told_soon(spawn: Spawn, settings: Settings) -> None:
    one, two = await asyncio.gather(*(spawn().start(**store_of(settings), watch_poll_ms=50) for _ in range(2)))
    async with connected(one) as a, connected(two) as b, watch_channel(a) as watcher:
        await watcher.bookmark()
        waits = []
        for version in range(10):
            await rho_stub(b).CommitRho(commit_of(Put("rho", density(seed=version)), expected=version))
            answered = time.monotonic()
            assert await watcher.numbers(1) == [version + 1]
            waits.append(time.monotonic() - answered)
    assert sorted(waits)[5] < 0.5, waits


async def test_where_a_killed_server_left_off_another_goes_on(spawn: Spawn, settings: Settings) -> None:
    one, two = await asyncio.gather(*(spawn().start(**store_of(settings), **KEPT) for _ in range(2)))
    async with connected(one) as a, connected(two) as b:
        total = 60

        async def writer() -> None:
            for version in range(total):
                await commit_at(rho_stub(b), version, Put("rho", density(seed=version)))

        writing = asyncio.create_task(writer())
        async with watch_channel(a, after_version=0) as watcher:
            seen = await watcher.numbers(20)
            one.kill()
            with contextlib.suppress(grpc.aio.AioRpcError):
                while True:
                    seen += await watcher.numbers(1)
        async with watch_channel(b, after_version=seen[-1]) as watcher:
            seen += await watcher.numbers(total - len(seen))
        await writing
    assert seen == list(range(1, total + 1))


# ---- who is slow -------------------------------------------------------------------------------------------------------


def resident_bytes(server: ServerProcess) -> int:
    pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.parametrize("kept", [10_000, 30])
async def test_nothing_is_queued_for_a_caller_who_does_not_read(spawn: Spawn, tmp_path: Path, kept: int) -> None:
    """400 commits of 64 KiB that 16 streams do not read would be 400 MiB."""
    server = await spawn().start(data_dir=tmp_path / "data", rho_history_versions=kept)
    streams, commits = 16, 400
    numbers = [np.full((64, 128), float(version)) for version in range(commits + 1)]
    async with connected(server) as writing, contextlib.AsyncExitStack() as stack:
        stub = rho_stub(writing)
        slow: list[Watcher] = []
        for _ in range(streams):
            channel = await stack.enter_async_context(connected(server))
            slow.append(await stack.enter_async_context(watch_channel(channel, after_version=0)))
        assert [(await watcher.bookmark()).version for watcher in slow] == [0] * streams
        before = 0
        for version in range(commits):
            if version == 100:
                before = resident_bytes(server)
            await stub.CommitRho(commit_of(Put("g", numbers[version + 1], kind=Kind.GENERIC), expected=version))
        grown = resident_bytes(server) - before
        assert grown < 100 << 20, f"{grown >> 20} MiB"

        async def read_all(watcher: Watcher) -> int:
            for version in range(1, commits + 1):
                try:
                    told = await watcher.next()
                except VersionCompacted as error:
                    return error.version - 1
                assert (told.version, told.matrices["g"].numbers) == (version, numbers[version].tobytes())
            return commits

        read = await asyncio.gather(*map(read_all, slow))
    assert set(read) == {commits} if kept > commits else max(read) < commits


# ---- its life ----------------------------------------------------------------------------------------------------------


async def test_a_server_that_stops_sends_its_streams_elsewhere_at_once(spawn: Spawn, tmp_path: Path) -> None:
    server = await spawn().start(data_dir=tmp_path / "data")
    async with connected(server) as channel:
        watchers = [watch_channel(channel, namespace) for namespace in "abc"]
        for watcher in watchers:
            await watcher.bookmark()
        waiting = [asyncio.create_task(watcher.next()) for watcher in watchers]
        started = time.monotonic()
        server.terminate()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in ended] == [Draining] * 3
        assert await server.ended() == 0
        assert time.monotonic() - started < 5
    assert "Traceback" not in server.log


async def test_an_answer_on_its_way_is_not_cut_when_the_server_stops(server: Server) -> None:
    """Its caller has it already where gRPC has not yet said so, and would then not be told why the stream ends."""
    guard, writing, taken = server.app._guard, asyncio.Event(), asyncio.Event()

    async def answers(_request: bytes, _context: object) -> AsyncIterator[bytes]:
        yield b"answer"
        await asyncio.Event().wait()

    class Slow:
        async def write(self, _answer: bytes) -> None:
            writing.set()
            await taken.wait()

    answering = guard._streamed(grpc.unary_stream_rpc_method_handler(answers))
    stream = asyncio.create_task(answering(b"", Slow()))
    await writing.wait()
    guard.end_streams()
    await asyncio.sleep(0.05)
    assert not stream.done()
    taken.set()
    with pytest.raises(Draining):
        await stream


@pytest.mark.settings(deadline_default_ms=100, concurrent_rpcs_max=1, **WITH_HTTP)
async def test_streams_have_no_default_deadline_and_leave_room_for_calls(server: Server) -> None:
    await seed(server.rho)
    calls = [server.rho.WatchRho(Watch(namespace="n", bookmark_interval={"nanos": 200_000_000})) for _ in range(3)]
    for call in calls:
        assert (await call.read()).version == 1
    assert await sample(server, "sfm_watch_streams") == 3
    await asyncio.sleep(0.3)
    assert (await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n"))).version == 1
    for call in calls:
        assert (await call.read()).bookmark
        call.cancel()

    async def none() -> bool:
        return await sample(server, "sfm_watch_streams") == 0

    await until(none)
    assert await sample(server, "sfm_watch_events_total") == 3
    method = {"grpc_service": "sfm.v1.RhoStore", "grpc_method": "WatchRho"}
    assert await sample(server, "grpc_server_started_total", **method) == 3
    assert await sample(server, "grpc_server_handled_total", **method, grpc_code="CANCELLED") == 3


async def test_a_deadline_that_a_caller_gives_ends_its_stream(server: Server) -> None:
    call = server.rho.WatchRho(Watch(namespace="n"), timeout=0.3)
    assert (await call.read()).bookmark
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: server.app.watches._streams == 0)


async def test_a_defect_is_told_by_its_request_id_only(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    await seed(server.rho)

    async def broken(*_: object, **__: object) -> None:
        raise KeyError("a secret")

    monkeypatch.setattr(server.app.store, "read", broken)
    call = server.rho.WatchRho(Watch(namespace="n"), metadata=[("x-request-id", "w-1")])
    refusal = await refused(call.read())
    assert (refusal.code, refusal.request_id) == (grpc.StatusCode.INTERNAL, "w-1")
    assert isinstance(refusal.error, InternalError)
    assert "secret" not in refusal.message


@pytest.mark.parametrize(
    ("fields", "field", "problem"),
    [
        ({"after_version": -1}, "after_version", "is -1"),
        ({"view": 9}, "view", "does not know"),
        ({"form": 9}, "form", "does not know"),
        ({"bookmark_interval": {"nanos": 99_000_000}}, "bookmark_interval", "is 0.099 s; it must be 0.1 to 3600"),
        ({"bookmark_interval": {"seconds": 3601}}, "bookmark_interval", "is 3601 s"),
        ({"bookmark_interval": {"seconds": -5}}, "bookmark_interval", "is -5 s"),
    ],
)
async def test_what_cannot_be_meant_is_refused(server: Server, fields: Any, field: str, problem: str) -> None:
    refusal = await refused(server.rho.WatchRho(Watch(**{"namespace": "n"} | fields)).read())
    assert (refusal.code, refusal.reason, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", (field,))
    assert problem in refusal.message


async def test_bytes_that_are_no_request_are_refused(server: Server) -> None:
    call = server.channel.unary_stream("/sfm.v1.RhoStore/WatchRho")
    refusal = await refused(call(b"\xff\xff\xff").read())
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ("message",))


@pytest.mark.parametrize("form", [rho_store_pb2.WatchRhoRequest().form, 1, 2, 3])
async def test_every_wire_form_is_the_one_of_a_read(server: Server, form: int) -> None:
    await server.rho.CommitRho(commit_of(Put("rho", density(seed=1)), Put("big", density(96, seed=2), kind=Kind.DENSITY)))
    view = rho_store_pb2.VIEW_FULL
    told = await server.rho.WatchRho(Watch(namespace="n", view=view, form=form)).read()
    read = await server.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n", view=view, form=form))
    for one, other in zip(told.matrices, read.matrices, strict=True):
        for matrix in (one.matrix, other.matrix):
            matrix.ClearField("padding")
            if matrix.envelope:
                matrix.envelope = matrix.envelope[-matrix.shape[0] * 8 :]  # its timestamp is when it was made
        assert one == other


# ---- clients that follow -----------------------------------------------------------------------------------------------


async def restarted(server: ServerProcess, settings: Settings, listen: str) -> None:
    server.kill()
    await server.ended()
    server.close()
    await server.start(**store_of(settings), **KEPT, listen=listen)


class Writer:
    """Commits versions of `rho` that say which they are."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.version = 0

    async def write(self, count: int) -> None:
        async with AsyncClient(self._address) as client:
            for _ in range(count):
                self.version += 1
                await client.namespace("n").commit(
                    {"rho": density(seed=self.version)}, expected_version=self.version - 1, timeout_s=30
                )

    def wrote(self, snapshot: Snapshot) -> bool:
        return snapshot["rho"].tobytes() == density(seed=snapshot.version).tobytes()


async def test_an_asyncio_client_follows_through_a_restart(spawn: Spawn, settings: Settings) -> None:
    listen = f"127.0.0.1:{ports.free()}"
    server = await spawn().start(**store_of(settings), **KEPT, listen=listen)
    writer = Writer(listen)
    await writer.write(3)
    async with AsyncClient(listen) as client, client.namespace("n").follow() as follower:
        assert follower.snapshot.version == 3
        await writer.write(5)
        assert writer.wrote(await follower.wait(8, 20))
        await restarted(server, settings, listen)
        await writer.write(5)
        assert writer.wrote(await follower.wait(13, 30))
        assert follower.problem is None
        assert 0 <= follower.age_s < 20


async def test_a_blocking_client_follows_through_a_restart_and_never_steps_back(spawn: Spawn, settings: Settings) -> None:
    listen = f"127.0.0.1:{ports.free()}"
    server = await spawn().start(**store_of(settings), **KEPT, listen=listen)
    writer = Writer(listen)
    await writer.write(1)
    steps: list[int] = []
    entered = asyncio.Event()
    loop = asyncio.get_running_loop()
    done = False

    def following() -> int:
        reads = 0
        with Client(listen) as client, client.namespace("n").follow() as follower:
            loop.call_soon_threadsafe(entered.set)
            while not done or follower.snapshot.version < 21:
                snapshot = follower.snapshot
                assert writer.wrote(snapshot)
                steps.append(snapshot.version)
                reads += 1
                time.sleep(0.001)
            assert client.namespace("n").read().modified is False
        return reads

    reading = asyncio.create_task(asyncio.to_thread(following))
    await entered.wait()
    await writer.write(10)
    await restarted(server, settings, listen)
    await writer.write(10)
    done = True
    reads = await asyncio.wait_for(reading, 60)
    assert reads > 20
    assert steps == sorted(steps)


@pytest.mark.settings(**WITH_HTTP)
async def test_reads_of_a_follower_are_no_calls(server: Server) -> None:
    await seed(server.rho)
    async with AsyncClient(server.app.address) as client, client.namespace("n").follow() as follower:
        for _ in range(10_000):
            assert follower.snapshot.version == 1
    service = {"grpc_service": "sfm.v1.RhoStore"}
    assert await sample(server, "grpc_server_started_total", **service, grpc_method="WatchRho") == 1
    called = {dict(labels).get("grpc_method") for name, labels in await samples(server) if name == "grpc_server_started_total"}
    assert "GetRho" not in called
