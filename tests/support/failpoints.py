"""Failpoints: places where a test makes the product die, wait or fail. The product has none of this, and no release does: its
own seams are wrapped, by name, when this module starts it.

    SFM_FAILPOINTS="postgres.commit.sent=kill@7; commit.told=wait:/tmp/go" python -m tests.support.failpoints serve …

An item is `point=action`, and after it when: `@7` at the seventh time only, `~0.01` with that probability, else every time.

    kill            SIGKILL to this process
    wait:PATH       writes PATH.reached, then waits until PATH is there
    sleep:SECONDS
    error:TEXT      raises what nobody expects: RuntimeError

Points are those of SEAMS and `postgres.commit.sent`; and `postgres.FILE.STATEMENT`, before each statement of the engine's .sql
files is handed to the driver (`postgres.housekeeping.delete_bodies`).
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import importlib
import inspect
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VARIABLE = "SFM_FAILPOINTS"
SENT = "postgres.commit.sent"
"""The commit's statement has left this process, and its result has not been read."""
_ASK_S = 0.002


@dataclass(frozen=True)
class Seam:
    """A function of the product, and the points before and after it."""

    module: str
    name: str
    before: str
    after: str


_COORDINATOR, _POSTGRES, _SQLITE = "sfm_grpc.coordinator", "sfm_grpc.storage.postgres", "sfm_grpc.storage.sqlite"
SEAMS = (
    # A commit's way, of every engine.
    Seam(f"{_COORDINATOR}.rho", "RhoCoordinator.commit", "commit.received", "commit.made"),
    Seam(f"{_COORDINATOR}.commit", "CommitPath._execute", "commit.admitted", "commit.told"),
    Seam("sfm_grpc.rpc.rho_store", "RhoStoreServicer.CommitRho", "commit.called", "commit.answered"),
    # Inside an engine; what comes after it, comes before the listeners.
    Seam(f"{_POSTGRES}.commit", "commit", "postgres.commit.begun", "postgres.commit.executed"),
    Seam(f"{_POSTGRES}.commit", "_write", "postgres.commit.unsent", "postgres.commit.written"),
    Seam(f"{_POSTGRES}.both", "_commit", "postgres.both.begun", "postgres.both.executed"),
    Seam(f"{_SQLITE}.commit", "commit", "sqlite.commit.begun", "sqlite.commit.executed"),
    Seam(f"{_POSTGRES}.housekeeping", "compact", "postgres.compact.begun", "postgres.compact.done"),
    Seam(f"{_SQLITE}.housekeeping", "compact", "sqlite.compact.begun", "sqlite.compact.executed"),
    # Before and after what the cache is asked, and what the head's row is told of it.
    Seam(f"{_COORDINATOR}.reads", "Reads._look", "read.unlooked", "read.looked"),
    Seam(f"{_COORDINATOR}.leased", "Leases._fill", "cache.unfilled", "cache.filled"),
    Seam(f"{_COORDINATOR}.fences", "Fences._fenced", "cache.unfenced", "cache.fenced"),
    Seam(f"{_COORDINATOR}.fences", "Fences.plant", "cache.unplanted", "cache.planted"),
    Seam(f"{_POSTGRES}.engine", "PostgresStore.cache_off", "drain.unbegun", "drain.begun"),
    Seam(f"{_POSTGRES}.engine", "PostgresStore.cache_drained", "drain.waited", "drain.ended"),
    Seam(f"{_POSTGRES}.engine", "PostgresStore.cache_on", "registering.begun", "registering.done"),
    # An order that comes as a message; what comes after it was carried out, comes before its offset is committed.
    Seam(f"{_COORDINATOR}.prune_orders", "PruneOrders._carry_out", "order.taken", "order.carried_out"),
    Seam("sfm_grpc.storage.events.kafka_inbox", "KafkaInbox.refuse", "order.unrefused", "order.refused"),
    Seam("sfm_grpc.storage.events.kafka_inbox", "KafkaInbox.done", "order.uncommitted", "order.committed"),
    # Starting.
    Seam(f"{_POSTGRES}.engine", "PostgresStore.open", "postgres.open.begun", "postgres.open.done"),
    Seam(f"{_POSTGRES}.migrate", "_take_turn", "postgres.migrate.waiting", "postgres.migrate.turn"),
    Seam(f"{_POSTGRES}.migrate", "_apply", "postgres.migrate.unapplied", "postgres.migrate.applied"),
)
_STATEMENT = re.compile(r"postgres\.(commit|housekeeping|migrate|reads|session)\.(\w+)")
_ITEM = re.compile(
    r"(?P<point>[\w.]+)=(?P<action>kill|wait|sleep|error)(?::(?P<argument>.*?))?(?:@(?P<at>\d+)|~(?P<odds>[\d.]+))?"
)


@dataclass
class Failpoint:
    """What happens at a point, and when."""

    point: str
    action: str
    argument: str = ""
    at: int = 0
    """The n-th time it is reached; 0: each time."""
    odds: float = 1.0
    hits: int = field(default=0, compare=False)

    async def reached(self) -> None:
        """Does what is to be done, while others go on."""
        if self._is_due():
            for pause_s in self._act():
                await asyncio.sleep(pause_s)

    def reached_in_thread(self) -> None:
        """The same, for a function that is not a coroutine."""
        if self._is_due():
            for pause_s in self._act():
                time.sleep(pause_s)

    def _is_due(self) -> bool:
        self.hits += 1
        return self.hits == self.at if self.at else random.random() < self.odds

    def _act(self) -> Iterator[float]:
        """Yields how long to pause, again and again."""
        if self.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.action == "error":
            raise RuntimeError(f"failpoint {self.point}: {self.argument}")
        elif self.action == "sleep":
            yield float(self.argument)
        else:
            Path(f"{self.argument}.reached").touch()
            while not Path(self.argument).exists():
                yield _ASK_S


def parse(text: str) -> list[Failpoint]:
    """Raises ValueError for what is no item, or no point."""
    found = []
    for item in filter(None, map(str.strip, text.split(";"))):
        told = _ITEM.fullmatch(item)
        if told is None:
            raise ValueError(
                f"{VARIABLE}: {item!r} is not point=action: kill, wait:PATH, sleep:SECONDS or error:TEXT, then @N or ~P"
            )
        if not _is_known(told["point"]):
            raise ValueError(f"{VARIABLE}: {told['point']} is no failpoint; {', '.join(points())} are")
        at, odds = int(told["at"] or 0), float(told["odds"] or 1)
        found.append(Failpoint(told["point"], told["action"], told["argument"] or "", at, odds))
    return found


def points() -> list[str]:
    """Every point but those of single statements."""
    return [SENT, *(point for seam in SEAMS for point in (seam.before, seam.after))]


def _is_known(point: str) -> bool:
    return point in points() or _text_of(point) is not None


# ---- wrapping the product


def install(text: str) -> None:
    """Wraps what is named, in this process, before the product is started in it."""
    armed = {failpoint.point: failpoint for failpoint in parse(text)}
    for seam in SEAMS:
        if seam.before in armed or seam.after in armed:
            _wrap(seam, armed.get(seam.before), armed.get(seam.after))
    if SENT in armed:
        _wrap_sending(armed[SENT])
    statements = {_text_of(point): failpoint for point, failpoint in armed.items() if point not in points()}
    if statements:
        _wrap_statements(statements)


def _wrap(seam: Seam, before: Failpoint | None, after: Failpoint | None) -> None:
    owner: Any = importlib.import_module(seam.module)
    *path, name = seam.name.split(".")
    for part in path:
        owner = getattr(owner, part)
    usual = getattr(owner, name)
    wrapped = _wrapped if inspect.iscoroutinefunction(usual) else _wrapped_in_thread
    setattr(owner, name, functools.wraps(usual)(wrapped(usual, before, after)))


def _wrapped(usual: Callable[..., Any], before: Failpoint | None, after: Failpoint | None) -> Callable[..., Any]:
    async def through(*args: Any, **named: Any) -> Any:
        if before is not None:
            await before.reached()
        result = await usual(*args, **named)
        if after is not None:
            await after.reached()
        return result

    return through


def _wrapped_in_thread(usual: Callable[..., Any], before: Failpoint | None, after: Failpoint | None) -> Callable[..., Any]:
    def through(*args: Any, **named: Any) -> Any:
        if before is not None:
            before.reached_in_thread()
        result = usual(*args, **named)
        if after is not None:
            after.reached_in_thread()
        return result

    return through


def _text_of(point: str) -> object:
    """The statement that a point names; None where there is none."""
    told = _STATEMENT.fullmatch(point)
    if told is None:
        return None
    home = {"session": "connection"}.get(told[1], told[1])
    statements: Mapping[str, str] = importlib.import_module(f"{_POSTGRES}.{home}").SQL
    return statements.get(told[2])


def _wrap_statements(armed: Mapping[object, Failpoint]) -> None:
    from psycopg import AsyncConnection

    usual = AsyncConnection.execute

    async def execute(self: Any, query: object, *args: Any, **named: Any) -> Any:
        failpoint = armed.get(query) if isinstance(query, str) else None
        if failpoint is not None:
            await failpoint.reached()
        return await usual(self, query, *args, **named)  # type: ignore[arg-type]

    AsyncConnection.execute = execute  # type: ignore[method-assign, assignment]


_writing: contextvars.ContextVar[list[bool] | None] = contextvars.ContextVar("writing", default=None)
"""Of the task that commits: whether its statement itself, not only the preparation of it, is on its way."""


def _wrap_sending(failpoint: Failpoint) -> None:
    """psycopg says what it waits for: once it has handed a statement over and waits to *read*, that statement was sent."""
    from psycopg import AsyncConnection
    from psycopg._cursor_base import BaseCursor

    commit = importlib.import_module(f"{_POSTGRES}.commit")
    write, send, wait = commit._write, BaseCursor._send_query_prepared, AsyncConnection.wait

    async def _write(*args: Any, **named: Any) -> Any:
        _writing.set([False])
        try:
            return await write(*args, **named)
        finally:
            _writing.set(None)

    def _send_query_prepared(self: Any, *args: Any, **named: Any) -> Any:
        if (on_its_way := _writing.get()) is not None:
            on_its_way[0] = True
        return send(self, *args, **named)

    async def waiting(self: Any, work: Any, *args: Any, **named: Any) -> Any:
        on_its_way = _writing.get()
        if on_its_way is None:
            return await wait(self, work, *args, **named)
        halves = _Halves(work, on_its_way)
        result = await wait(self, halves.until_sent(), *args, **named)
        if halves.ended:
            return result
        await failpoint.reached()
        return await wait(self, halves.rest(), *args, **named)

    commit._write = _write
    BaseCursor._send_query_prepared = _send_query_prepared  # type: ignore[method-assign]
    AsyncConnection.wait = waiting  # type: ignore[method-assign, assignment]


class _Halves:
    """A generator of psycopg's, cut where it has sent all it had to say."""

    def __init__(self, work: Any, on_its_way: list[bool]) -> None:
        self._work, self._on_its_way = work, on_its_way
        self._waits_for: Any = None
        self.ended = False

    def until_sent(self) -> Any:
        from psycopg.waiting import Wait

        try:
            self._waits_for = next(self._work)
            while not (self._on_its_way[0] and self._waits_for == Wait.R):
                self._waits_for = self._work.send((yield self._waits_for))
        except StopIteration as end:
            self.ended = True
            return end.value

    def rest(self) -> Any:
        try:
            while True:
                self._waits_for = self._work.send((yield self._waits_for))
        except StopIteration as end:
            return end.value


def main() -> int:
    """The ordinary command line, with the failpoints that the environment names; the product itself refuses the variable."""
    install(os.environ.pop(VARIABLE, ""))
    from sfm_grpc.cli.root import run

    return run()


if __name__ == "__main__":
    sys.exit(main())
