"""Postgres on a disk that is full, and on one that is slow."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from psycopg import sql
from sfm.v1 import rho_store_pb2

from sfm_grpc.model import Kind, Scope
from tests.conftest import Serve
from tests.support.bulk import Resumed, line_of
from tests.support.drivers import Put
from tests.support.engines.postgres import PostgresEngine, migrated
from tests.support.matrices import density, sketch
from tests.support.memories import Memories
from tests.support.messages import commit_of
from tests.support.refusals import outcome, refused
from tests.support.servers import Server, settings_for, until
from tests.support.services.databases import Database
from tests.support.services.fixtures import StartCluster
from tests.support.services.kept import Account
from tests.support.services.places import remove, temporary
from tests.support.services.postgres_server import PostgresServer

BIG = sketch(512, 512)  # two megabytes
FULL = rho_store_pb2.VIEW_FULL


@dataclass
class SmallDisk:
    """A file system of its own, that Postgres may use."""

    directory: Path

    @property
    def _ballast(self) -> Path:
        return self.directory / "ballast"

    def fill(self) -> None:
        with contextlib.suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536))

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def mounted(account: Account, megabytes: int) -> Iterator[SmallDisk]:
    """Skips the test where this user may not mount."""
    mount = shutil.which("mount") if os.geteuid() == 0 else None
    if mount is None:
        pytest.skip("only root may mount a small file system")
    root = temporary(account, "disk")
    disk = SmallDisk(root / "small")
    disk.directory.mkdir()
    told = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", disk.directory], capture_output=True, text=True, check=False
    )
    try:
        if told.returncode != 0:
            pytest.skip(f"no small file system may be mounted here: {told.stderr.strip()}")
        account.own(disk.directory)
        yield disk
    finally:
        if told.returncode == 0:
            subprocess.run(["umount", disk.directory], check=True)
        remove(root)


async def test_a_full_disk_refuses_commits_and_nothing_else(postgres_cluster: StartCluster, serve: Serve) -> None:
    """Where the tables lie: Postgres undoes the statement, and says so."""
    cluster = postgres_cluster()
    with mounted(cluster.binaries.account, 24) as disk, contextlib.closing(cluster):
        database = cluster.fresh(migrated)
        place(database, disk.directory)
        server = await serve(settings_for(postgres_url=database.url))
        await server.rho.CommitRho(commit_of(Put("rho", density()), Put("big", BIG, kind=Kind.GENERIC)))
        disk.fill()
        request = commit_of(Put("big", -BIG, kind=Kind.GENERIC), expected=1, request_id="r")
        told = await refused(server.rho.CommitRho(request, timeout=30))
        assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert "its disk is full" in told.facts["problem"]
        assert told.facts["outcome_unknown"] == "false"
        assert await held(server) == (1, BIG.tobytes())
        with database.connect() as c:
            assert c.execute("SELECT COUNT(*) FROM sfm.request WHERE request_id = 'r'").fetchone() == (0,)
        assert await server.app.presence.look()
        disk.free()
        done = await server.rho.CommitRho(request, timeout=30)
        assert (done.version, done.replayed) == (2, False)
        assert await held(server) == (2, (-BIG).tobytes())
        assert PostgresEngine(cluster).damage(server.settings) == []
        await server.app.store.close()


LINES = [line_of(f"k{n:04}", {"n": n, "text": "x" * 3000}) for n in range(600)]
BATCH = 20


async def test_an_import_that_fills_the_disk_is_resumed_when_there_is_room(postgres_cluster: StartCluster, serve: Serve) -> None:
    """Requests are of several transactions: of one that is not answered for, the first ones may be there, each whole."""
    cluster = postgres_cluster()
    with mounted(cluster.binaries.account, 24) as disk, contextlib.closing(cluster):
        database = cluster.fresh(migrated)
        place(database, disk.directory)
        server = await serve(settings_for(postgres_url=database.url, batch_max=BATCH))
        memories, lines = Memories(server.channel), Resumed(LINES)
        assert await lines.go_on(memories, up_to=100) is None
        disk.fill()

        refusal = await lines.go_on(memories)
        assert refusal is not None
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert "its disk is full" in refusal.facts["problem"]
        assert refusal.facts["outcome_unknown"] == "false"
        there = await lines.kept(memories)
        assert there - lines.through in range(0, lines.at_once, BATCH)
        assert await server.app.presence.look()
        with database.connect() as c:
            assert c.execute("SELECT COUNT(*), MAX(revision) FROM sfm.memory").fetchone() == (there, there)

        disk.free()
        assert await lines.go_on(memories) is None
        assert await lines.kept(memories) == len(LINES)
        assert (lines.through, lines.created + lines.updated) == (len(LINES), len(LINES))
        await server.app.store.close()


async def test_a_full_log_ends_postgres_and_loses_nothing(serve: Serve, postgres_cluster: StartCluster) -> None:
    """Tables have room, the log has none: Postgres panics. With room, and started again, it is as it was."""
    account = postgres_cluster().binaries.account
    with mounted(account, 160) as disk, roomy(account) as directory:
        cluster = postgres_cluster(inside=disk.directory, conf={"min_wal_size": "32MB", "max_wal_size": "32MB"})
        with contextlib.closing(cluster):
            database = cluster.fresh(migrated)
            place(database, directory)
            server = await serve(settings_for(postgres_url=database.url))
            await server.rho.CommitRho(commit_of(Put("rho", density()), Put("big", BIG, kind=Kind.GENERIC)))
            disk.fill()
            acknowledged, unknown = await commits_until_refused(server)
            assert "PANIC" in cluster.log
            disk.free()
            await asyncio.to_thread(cluster.restart, "immediate")
            done = await until(lambda: committed(server, unknown), within_s=30)
            assert done.version == acknowledged + 1
            again = await server.rho.CommitRho(unknown, timeout=30)
            assert (again.version, again.replayed) == (done.version, True)
            assert PostgresEngine(cluster).versions(server.settings, Scope("default", "n")) == list(range(1, done.version + 1))
            assert PostgresEngine(cluster).damage(server.settings) == []
            await server.app.store.close()


@contextlib.contextmanager
def roomy(account: Account) -> Iterator[Path]:
    """A directory beside the small disk."""
    directory = temporary(account, "tables")
    try:
        (directory / "tables").mkdir()
        account.own(directory / "tables")
        yield directory / "tables"
    finally:
        remove(directory)


def place(database: Database, directory: Path) -> None:
    """Its tables lie there from now on."""
    with database.server.connect() as c:
        c.execute(sql.SQL("CREATE TABLESPACE place LOCATION {}").format(sql.Literal(str(directory))))
        c.execute(sql.SQL("ALTER DATABASE {} SET TABLESPACE place").format(sql.Identifier(database.name)))


async def commits_until_refused(server: Server) -> tuple[int, Any]:
    """Fills the log; the newest version that was acknowledged, and the request that was not."""
    for version in range(1, 200):
        request = commit_of(Put("big", (version + 1) * BIG, kind=Kind.GENERIC), expected=version, request_id=f"r{version}")
        answer = await outcome(server.rho.CommitRho(request, timeout=30))
        if isinstance(answer, Exception):
            assert answer.reason == "STORE_UNAVAILABLE", answer  # type: ignore[attr-defined]
            return version, request
        assert answer.version == version + 1
    raise AssertionError("the disk is not full")


async def committed(server: Server, request: Any) -> Any:
    answer = await outcome(server.rho.CommitRho(request, timeout=30))
    return None if isinstance(answer, Exception) else answer


async def held(server: Server) -> tuple[int, bytes]:
    """The newest version, and its numbers, whatever is remembered."""
    for consistency in (1, 2):
        read = await server.rho.GetRho(
            rho_store_pb2.GetRhoRequest(namespace="n", keys=["big"], view=FULL, freshness={"consistency": consistency})
        )
    return read.version, read.matrices[0].matrix.data


# ---- slow

SYNC_S = 1.0


@contextlib.contextmanager
def slow_syncs(cluster: PostgresServer, seconds: float) -> Iterator[None]:
    """Every fsync of every process that Postgres starts from now on takes so much longer."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("there is no strace to slow fsync down with")
    slowly = f"inject=fsync,fdatasync:delay_enter={round(seconds * 1e6)}"
    tracer = subprocess.Popen(
        [strace, "-f", "-q", "-p", str(cluster.pid), "-e", "trace=fsync,fdatasync", "-e", slowly],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _await_tracer(tracer, cluster.pid)
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=30)


def _await_tracer(tracer: subprocess.Popen[str], pid: int) -> None:
    until_s = time.monotonic() + 10
    while f"TracerPid:\t{tracer.pid}" not in Path(f"/proc/{pid}/status").read_text():
        if tracer.poll() is not None:
            assert tracer.stderr is not None
            pytest.skip(f"strace may not slow fsync down here: {tracer.stderr.read().strip()}")
        assert time.monotonic() < until_s
        time.sleep(0.01)


async def test_a_slow_disk_makes_commits_slow_and_unknown_but_never_two(postgres_cluster: StartCluster, serve: Serve) -> None:
    """A sync is part of the commit and cannot be undone, however long it takes: whoever gives up does not know."""
    cluster = postgres_cluster()
    database = cluster.fresh(migrated)
    with slow_syncs(cluster, SYNC_S):
        patient = await serve(settings_for(postgres_url=database.url))
        began_s = time.monotonic()
        assert (await patient.rho.CommitRho(commit_of(Put("rho", density())), timeout=30)).version == 1
        assert time.monotonic() - began_s > SYNC_S
        hasty = commit_of(Put("rho", density(seed=1)), expected=1, request_id="hasty")
        with contextlib.suppress(grpc.aio.AioRpcError):
            await patient.rho.CommitRho(hasty, timeout=SYNC_S / 2)
        done = await patient.rho.CommitRho(hasty, timeout=30)
        assert (done.version, done.replayed) == (2, True)
        assert await patient.app.presence.look()
        read = await patient.rho.GetRho(rho_store_pb2.GetRhoRequest(namespace="n", view=FULL))
        assert (read.version, read.matrices[0].matrix.data) == (2, density(seed=1).tobytes())
    assert PostgresEngine(cluster).versions(patient.settings, Scope("default", "n")) == [1, 2]
