"""Clients that commit and read at the same time, ask again until they are answered, and write everything down."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psycopg

from sfm_grpc.client.aio import AsyncClient
from sfm_grpc.errors import (
    DeadlineExceeded,
    Draining,
    NotFound,
    Overloaded,
    SfmError,
    StoreUnavailable,
    Unreachable,
    VersionConflict,
    VersionNotReached,
)
from sfm_grpc.settings import Settings
from tests.support.histories import Committed, Conflicted, History, Read, Request, Stored
from tests.support.matrices import density

# The client's own words for "ask again": of these nobody knows what has happened, or nothing has.
AGAIN = (Unreachable, StoreUnavailable, DeadlineExceeded, Draining, Overloaded)
PAUSE_S = 0.02
# Longer than any fault lasts.
PATIENCE_S = 60.0


def digest(array: Any) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


@dataclass
class Load:
    """Some clients of some servers."""

    addresses: Sequence[str]
    namespaces: Sequence[str]
    clients: int = 4
    seed: int = 0
    patience_s: Sequence[float] = (0.4, 3.0)
    """The deadlines of calls, each as likely; the client itself asks again for almost two seconds."""
    bulk: int = 64
    """Rows and columns of the larger matrices."""
    name: str = "c"
    pause_s: float = 0.0
    """Between what a client asks: time for others."""
    leased: bool = False
    """The servers have a cache before their store."""
    history: History = field(default_factory=History)
    failures: Counter[str] = field(default_factory=Counter)
    """How often each error came that says: ask again."""
    replayed: int = 0
    """Answers that had been given before, and had not arrived."""
    _stopping: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _expected: dict[str, int] = field(default_factory=dict)

    def start(self) -> Load:
        """They begin."""
        self._stopping = False
        self._tasks = [asyncio.create_task(self._live(number)) for number in range(self.clients)]
        return self

    async def finish(self) -> History:
        """Each gets the answers it is waiting for; then they stop."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        self._tasks.clear()
        return self.history

    async def __aenter__(self) -> Load:
        return self.start()

    async def __aexit__(self, kind: object, *_: object) -> None:
        if kind is None:
            await self.finish()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def progress(self, answers: int, *, within_s: float = PATIENCE_S) -> None:
        """Waits for so many more commits; raises what a client has died of."""
        wanted = len(self.history.committed) + answers
        async with asyncio.timeout(within_s):
            while len(self.history.committed) < wanted:
                self.check()
                await asyncio.sleep(0.005)

    def check(self) -> None:
        """Raises what a client has died of."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    # ---- one client

    async def _live(self, number: int) -> None:
        """Commits and reads, at one server and then another, until it is told to stop."""
        rng = random.Random(f"{self.seed} {number}")
        # Nothing kept: what is read was sent by the server, and is what it holds.
        servers = [AsyncClient(address, name=f"{self.name}{number}", cache_bytes_max=0) for address in self.addresses]
        mine = _Servers(servers, number, rng)
        turn = 0
        try:
            while not self._stopping:
                turn += 1
                namespace = rng.choice(self.namespaces)
                await self._commit(mine, *self._request(rng, namespace, number, turn))
                if rng.random() < 0.7:
                    await self._read(mine, namespace)
                if rng.random() < 0.5:
                    mine.move()
                await asyncio.sleep(self.pause_s)
        finally:
            for server in servers:
                await server.close()

    def _request(self, rng: random.Random, namespace: str, number: int, turn: int) -> tuple[Request, Mapping[str, Any]]:
        """Numbers that say who wrote them; sometimes further matrices beside them, or one that goes away."""
        expected = self._expected.get(namespace, 0)
        salt = rng.getrandbits(32)
        changes: dict[str, Any] = {"who": np.array([[float(number), float(turn), float(expected), float(salt)]])}
        also = rng.random()
        if also < 0.3:
            changes["rho"] = density(self.bulk, seed=salt)
        if also < 0.15 or also > 0.9:
            changes["bulk"] = np.random.default_rng(salt).standard_normal((self.bulk, self.bulk))
        elif also > 0.8:
            changes["bulk"] = None
        digests = {key: None if array is None else digest(array) for key, array in changes.items()}
        request = Request(namespace, f"{self.name}{number}-{turn}-{salt:08x}", expected, digests)
        return self.history.ask(request), changes

    async def _commit(self, servers: _Servers, request: Request, changes: Mapping[str, Any]) -> None:
        """Asks until it is answered, with the same id."""
        began_s = time.monotonic()
        kinds = {key: "generic" for key, array in changes.items() if key != "rho" and array is not None}
        while True:
            asked_s = time.monotonic()
            try:
                done = await servers.now.namespace(request.namespace).commit(
                    changes,
                    expected_version=request.expected,
                    request_id=request.request_id,
                    metadata={"id": request.request_id},
                    kinds=kinds,  # type: ignore[arg-type]
                    timeout_s=self._patience(servers),
                )
            except VersionConflict as error:
                ended_s = time.monotonic()
                self.history.conflicted.append(Conflicted(request, error.current, began_s, ended_s, asked_s))
                self._saw(request.namespace, error.current)
                return
            except AGAIN as error:
                await self._again(servers, error, began_s)
                continue
            self.history.committed.append(Committed(request, done.version, began_s, time.monotonic(), done.replayed))
            self.replayed += done.replayed
            self._saw(request.namespace, done.version)
            return

    async def _read(self, servers: _Servers, namespace: str) -> None:
        """Reads what is newest, either way, until it is answered."""
        consistency = servers.rng.choice(["cached", "canonical"])
        first_s = time.monotonic()
        while True:
            began_s = time.monotonic()
            try:
                found = await servers.now.namespace(namespace).read(
                    consistency=consistency,  # type: ignore[arg-type]
                    timeout_s=self._patience(servers),
                )
            except NotFound:
                answer = Read(namespace, 0, {}, began_s, time.monotonic())
            except VersionNotReached as error:  # older than what this client had been told: a stale answer by another name
                answer = Read(namespace, error.current, {}, began_s, time.monotonic())
            except AGAIN as error:
                await self._again(servers, error, first_s)
                continue
            else:
                content = {key: digest(array) for key, array in found.matrices.items()}
                answer = Read(
                    namespace, found.version, content, began_s, time.monotonic(), self.leased and consistency == "cached"
                )
            self.history.reads.append(answer)
            self._saw(namespace, answer.version)
            return

    async def _again(self, servers: _Servers, error: SfmError, since_s: float) -> None:
        self.failures[type(error).__name__] += 1
        if time.monotonic() - since_s > PATIENCE_S:
            raise TimeoutError(f"no answer for {PATIENCE_S:g} s, at last: {error}") from error
        servers.move()
        await asyncio.sleep(PAUSE_S)

    def _patience(self, servers: _Servers) -> float:
        return servers.rng.choice(self.patience_s)

    def _saw(self, namespace: str, version: int) -> None:
        self._expected[namespace] = max(version, self._expected.get(namespace, 0))


class _Servers:
    """Those that one client knows, and the one it asks now."""

    def __init__(self, servers: Sequence[AsyncClient], first: int, rng: random.Random) -> None:
        self.rng = rng
        self._servers = servers
        self._now = first % len(servers)

    @property
    def now(self) -> AsyncClient:
        return self._servers[self._now]

    def move(self) -> None:
        """To the next one."""
        self._now = (self._now + 1) % len(self._servers)


# ---- the store's own account


async def listed(address: str, namespaces: Sequence[str]) -> dict[str, list[Stored]]:
    """By namespace, the kept versions as a server lists them."""
    found = {}
    async with AsyncClient(address, name="judge", timeout_s=30) as client:
        for namespace in namespaces:
            try:
                versions = [v async for v in client.namespace(namespace).versions(page_size=500)]
            except NotFound:
                versions = []
            found[namespace] = [
                Stored(v.version, v.metadata["id"], {e.key: e.certificate.digest for e in v.entries}) for v in versions
            ]
    return found


def remembered(settings: Settings) -> dict[str, list[Stored]]:
    """By namespace, every version whose request the store remembers, kept or not. Nobody asks a server for it."""
    found: dict[str, list[Stored]] = {}
    with contextlib.closing(_connected(settings)) as c:
        table = "sfm.request" if settings.postgres_url else "request"
        for namespace, version, request_id in c.execute(f"SELECT namespace, version, request_id FROM {table}"):
            found.setdefault(namespace, []).append(Stored(version, request_id, None))
    return found


def _connected(settings: Settings) -> Any:
    if settings.postgres_url:
        return psycopg.connect(settings.postgres_url.get_secret_value())
    return sqlite3.connect(settings.data_dir / "sfm.db")


def joined(kept: Mapping[str, Sequence[Stored]], all_made: Mapping[str, Sequence[Stored]]) -> dict[str, list[Stored]]:
    """The kept versions with their content, the others without; what the two accounts tell differently is there twice."""
    found = {}
    for namespace in {*kept, *all_made}:
        listed = {(s.version, s.request_id) for s in kept.get(namespace, ())}
        gone = [s for s in all_made.get(namespace, ()) if (s.version, s.request_id) not in listed]
        found[namespace] = [*kept.get(namespace, ()), *gone]
    return found
