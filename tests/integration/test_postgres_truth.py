"""A commit on Postgres is told as what became of it, whatever happens to it on the way; and it stands in nobody else's way."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import errors as pg
from psycopg import pq

from sfm_grpc.errors import StoreUnavailable, VersionConflict
from sfm_grpc.model import Kind, PutMatrix, Scope
from sfm_grpc.storage.postgres import PostgresStore
from sfm_grpc.storage.postgres.errors import Sent, translated
from tests.support.engines.postgres import migrated
from tests.support.matrices import sketch
from tests.support.postgres_stores import committed, opened, rho
from tests.support.servers import until
from tests.support.services.databases import Database
from tests.support.services.fixtures import FreshDatabase, StartCluster, StartProxy
from tests.support.transactions import N, putting, request, transaction

OTHER = Scope("default", "other")


def versions_of(database: Database, scope: Scope = N) -> list[int]:
    """The versions there are."""
    with database.connect() as c:
        rows = c.execute(
            "SELECT v.version FROM sfm.rho_version v JOIN sfm.namespace n USING (namespace_id) WHERE n.name = %s ORDER BY 1",
            (scope.namespace,),
        )
        return [version for (version,) in rows]


# ---- what Postgres says when it ends


@pytest.mark.parametrize("state", ["58030", "53100", "53200", "XX000", "57P02"])
@pytest.mark.parametrize("severity", ["ERROR", "FATAL", "PANIC"])
def test_what_ends_the_connection_leaves_the_outcome_unknown_whatever_its_state(state: str, severity: str) -> None:
    ended = severity != "ERROR" or state == "57P02"
    answer = pg.lookup(state)(f"{severity}:  x", info={pq.DiagnosticField.SEVERITY_NONLOCALIZED: severity.encode()})
    for writing in (True, False):
        sent = Sent()
        sent.writing = writing
        expected = psycopg.Error if state == "XX000" and not ended else StoreUnavailable
        with pytest.raises(expected) as caught, translated(sent):
            raise answer
        if isinstance(caught.value, StoreUnavailable):
            assert caught.value.outcome_unknown is (ended and writing)
            assert ("nothing was changed" in caught.value.problem) is (state[:2] == "53" and not (ended and writing))


@contextlib.contextmanager
def failing_syncs(pid: int) -> Iterator[None]:
    """While it lasts, no sync of this process succeeds."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("there is no strace to make syncs fail")
    wrong = ["-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO"]
    command = [strace, "-q", "-p", str(pid), *wrong]
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 10
        while f"TracerPid:\t{tracer.pid}\n" not in Path(f"/proc/{pid}/status").read_text():
            if tracer.poll() is not None:
                assert tracer.stderr is not None
                pytest.skip(f"strace may not make syncs fail here: {tracer.stderr.read().strip()}")
            assert time.monotonic() < end
            time.sleep(0.01)
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.communicate(timeout=30)


async def test_a_commit_whose_sync_fails_is_unknown_and_its_retry_tells(postgres_cluster: StartCluster) -> None:
    database = postgres_cluster().fresh(migrated)
    async with opened(database.url, pool_max=1) as store:
        await store.commit(transaction(rho(), expected=0))
        second = transaction(rho(1), expected=1, asked=request("r"))
        with database.connect() as c:
            ours = c.execute("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'sfm-grpc%'").fetchall()
        ((pid,),) = ours
        with failing_syncs(pid), pytest.raises(StoreUnavailable) as caught:
            await store.commit(second)
        assert caught.value.outcome_unknown
        assert "nothing was changed" not in caught.value.problem
        done = await until(lambda: committed(store, second), within_s=30)
        assert done.number == 2
    assert versions_of(database) == [1, 2]


async def test_a_commit_given_up_while_it_waits_for_a_standby_is_unknown_and_its_retry_tells(
    postgres_cluster: StartCluster,
) -> None:
    """Postgres calls it done: here it is, but on the standby it was to wait for it is not."""
    database = postgres_cluster().fresh(migrated)
    async with opened(database.url) as store:
        await store.commit(transaction(rho(), expected=0))
        second = transaction(rho(1), expected=1, asked=request("r"))
        with database.connect() as c:
            c.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
            c.execute("SELECT pg_reload_conf()")
            await until(lambda: c.execute("SHOW synchronous_standby_names").fetchone() == ("gone",))
            await asyncio.sleep(0.5)  # the other sessions hear of it by a signal, each for itself
            began = time.monotonic()
            with pytest.raises(StoreUnavailable) as caught:
                await store.commit(dataclasses.replace(second, deadline=began + 1.0))
            assert 0.9 < time.monotonic() - began < 3.0
            assert caught.value.outcome_unknown
            assert "standby" in caught.value.problem
            # The retry is answered from what is kept here. What it read need not wait for a standby.
            c.execute("ALTER SYSTEM RESET synchronous_standby_names")
            c.execute("SELECT pg_reload_conf()")
        again = await store.commit(second)
        assert (again.number, again.replayed) == (2, True)
        assert (await store.commit(transaction(rho(2), expected=2))).number == 3
    assert versions_of(database) == [1, 2, 3]


@pytest.mark.parametrize("validate_only", [True, False])
async def test_a_connection_lost_while_looking_leaves_nothing_unknown(fresh_database: FreshDatabase, validate_only: bool) -> None:
    database = fresh_database(migrated)
    async with opened(database.url) as first, opened(database.url) as store:
        await first.commit(transaction(rho(), expected=0))
        # This one knows nothing of the namespace, so it looks before it writes.
        asked = transaction(rho(1), expected=1, asked=request("r"), validate_only=validate_only)
        error = await _ended_at_a_lock(database, store, asked, "LOCK TABLE sfm.namespace IN ACCESS EXCLUSIVE MODE")
        assert not error.outcome_unknown
        # What was sent to be written, is.
        assert (await store.commit(dataclasses.replace(asked, validate_only=False))).number == 2
        third = transaction(rho(2), expected=2, asked=request("s"))
        error = await _ended_at_a_lock(database, store, third, "SELECT 1 FROM sfm.namespace FOR UPDATE")
        assert error.outcome_unknown
        assert (await store.commit(third)).number == 3


async def _ended_at_a_lock(database: Database, store: PostgresStore, asked: Any, lock: str) -> StoreUnavailable:
    ends = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    with database.connect() as c, database.connect() as judge:
        with c.transaction():
            c.execute(lock)
            asking = asyncio.ensure_future(store.commit(asked))
            await until(lambda: judge.execute(ends, (database.name,)).fetchall())
            with pytest.raises(StoreUnavailable) as caught:
                await asking
        return caught.value


# ---- in nobody's way


async def test_a_commit_that_stalls_half_way_up_holds_nobody(fresh_database: FreshDatabase, fault_proxy: StartProxy) -> None:
    database = fresh_database(migrated)
    proxy = fault_proxy(database.url)
    far_url, mark = proxy.url(database.url), 3.14159

    def big(key: str, number: float) -> PutMatrix:
        return putting(key, np.full((256, 1024), number), Kind.GENERIC)

    async with opened(far_url, statement_timeout_s=2.0) as far, opened(database.url) as near:
        await far.commit(transaction(big("a", 1.0), big("b", 2.0), expected=0))
        hangs = proxy.when(np.float64(mark).tobytes() * 4, proxy.hang)
        late = transaction(big("a", 3.0), big("b", mark), expected=1, asked=request("late"))
        asking = asyncio.ensure_future(far.commit(late))
        await until(hangs.is_set)
        with database.connect() as c:
            held = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = %s AND backend_xid IS NOT NULL"
            assert c.execute(held, (database.name,)).fetchone() == (0,)
        began = time.monotonic()
        for version in range(1, 4):
            assert (await near.commit(transaction(rho(version), expected=version))).number == version + 1
        assert (await near.commit(transaction(rho(), scope=OTHER, expected=0))).number == 1
        assert time.monotonic() - began < 1.0
        assert not asking.done()
        with pytest.raises(StoreUnavailable) as caught:
            await asking
        assert caught.value.outcome_unknown
        proxy.restore()  # what was held back arrives now, and finds another version
        with pytest.raises(VersionConflict):
            await until(lambda: committed(far, late))
        assert (await near.commit(transaction(rho(9), expected=4))).number == 5
    assert versions_of(database) == [1, 2, 3, 4, 5]


async def test_a_read_under_way_finishes_when_the_store_is_closed(fresh_database: FreshDatabase) -> None:
    database = fresh_database(migrated)
    numbers = sketch(512, 512)
    async with opened(database.url) as store:
        await store.commit(transaction(putting("g", numbers, Kind.GENERIC), expected=0))
        waits = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
        with database.connect() as c, database.connect() as judge:
            with c.transaction():
                c.execute("LOCK TABLE sfm.namespace IN ACCESS EXCLUSIVE MODE")
                reading = asyncio.ensure_future(store.read(N))
                await until(lambda: judge.execute(waits, (database.name,)).fetchone() == (1,))
                closing = asyncio.ensure_future(store.close())
                await asyncio.sleep(0.1)
                assert not closing.done()
            found = await reading
            await closing
        assert [bytes(body) for body in found.numbers.values()] == [numbers.tobytes()]
        with pytest.raises(StoreUnavailable, match="closed"):
            await store.read(N)
