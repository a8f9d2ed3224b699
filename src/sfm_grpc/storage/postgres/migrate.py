"""The schema's way forward: numbered files in migrations/, each applied once, in one transaction, by one process at a time."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import psycopg
from psycopg import AsyncConnection, sql
from psycopg import errors as pg

from sfm_grpc.errors import StoreRefused, StoreUnavailable
from sfm_grpc.storage import statements
from sfm_grpc.storage.postgres.connection import connect
from sfm_grpc.storage.postgres.errors import translated
from sfm_grpc.storage.postgres.options import PostgresOptions

_log = logging.getLogger(__name__)

SQL = statements.load(__package__, "migrate.sql")

# Replicas that start together wait here for the first of them. Any number will do that nobody else uses: "sfm-grpc".
_ADVISORY_LOCK = 0x73666D2D67727063
_ASK_AGAIN_S = 0.1

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. Once released, its text never changes: what was applied is compared by its digest."""

    number: int
    name: str
    text: str

    @property
    def sha256(self) -> bytes:
        """Of the text."""
        return hashlib.sha256(self.text.encode()).digest()


@dataclass(frozen=True, slots=True)
class State:
    """Where a database's schema is, and where this release would have it."""

    applied: Sequence[tuple[int, str, bytes]]
    """Number, name and digest of each, in order."""
    known: Sequence[Migration]
    behind: bool = False
    """New events would come before stored ones: a dump of another cluster was restored. Migrating mends it."""

    @property
    def current(self) -> int:
        """The last that was applied; 0: none."""
        return self.applied[-1][0] if self.applied else 0

    @property
    def needed(self) -> int:
        """The last that this release knows."""
        return self.known[-1].number

    @property
    def pending(self) -> Sequence[Migration]:
        """What is still to be applied."""
        return tuple(m for m in self.known if m.number > self.current)

    def problem(self) -> str:
        """Why this release cannot serve from it; '' when it can."""
        if self.conflict():
            return self.conflict()
        if self.behind:
            return "its events were restored from another cluster, new ones would come before them: run `sfm migrate`"
        if not self.pending:
            return ""
        has = f"schema {self.current}" if self.applied else "no schema"
        return f"the database has {has}, this release needs {self.needed}: run `sfm migrate`"

    def conflict(self) -> str:
        """What no migration of this release can mend; '' when nothing is."""
        if self.current > self.needed:
            return f"the database has schema {self.current}, this release knows up to {self.needed}: run a newer release"
        for (number, name, digest), migration in zip(self.applied, self.known, strict=False):
            if (number, digest) != (migration.number, migration.sha256):
                return f"migration {number} ({name}) was applied with another text than this release's: run the release that did"
        return ""


@functools.cache
def known() -> Sequence[Migration]:
    """The migrations of this release, in order."""
    files = resources.files(__package__).joinpath("migrations").iterdir()
    found = ((_FILE.fullmatch(file.name), file) for file in files)
    steps = (Migration(int(m[1]), m[2], file.read_text(encoding="utf-8")) for m, file in found if m)
    return tuple(sorted(steps, key=lambda step: step.number))


async def state(connection: AsyncConnection, steps: Sequence[Migration] | None = None) -> State:
    """What was applied. Raises psycopg.Error."""
    steps = known() if steps is None else steps
    if not await _is_so(connection, "exists"):
        return State([], steps)
    cursor = await connection.execute(SQL["list_applied"])
    applied = [(number, name, bytes(digest)) for number, name, digest in await cursor.fetchall()]
    behind = await _is_so(connection, "has_outbox") and await _is_so(connection, "is_behind")
    return State(applied, steps, behind)


async def check(connection: AsyncConnection) -> None:
    """Raises StoreRefused for a schema that is older or newer than this release."""
    if problem := (await state(connection)).problem():
        raise StoreRefused(problem=problem)


async def look(options: PostgresOptions) -> State:
    """Where the schema is; changes nothing. Raises StoreUnavailable, StoreRefused."""
    connection = await connect(options)
    try:
        with translated():
            return await state(connection)
    finally:
        await connection.close()


async def migrate(options: PostgresOptions, steps: Sequence[Migration] | None = None) -> Sequence[Migration]:
    """Brings the schema up to date; returns the steps that this call applied, in order.

    A step is applied whole or not at all; whoever is interrupted calls again. Raises StoreRefused for what a person must mend: a
    newer schema, another text, a right that is missing, a step that fails; StoreUnavailable for what may pass.
    """
    connection = await connect(options)
    try:
        with translated():
            found = await _mendable(connection, steps)
            if found.behind:
                await connection.execute(SQL["catch_up"])
            if not found.pending:
                return ()
            await _take_turn(connection)
            pending = (await _mendable(connection, steps)).pending  # whoever was first has left less to do, or nothing
        for step in pending:
            await _apply(connection, step)
        return pending
    finally:
        await connection.close()  # and with it the lock


async def _mendable(connection: AsyncConnection, steps: Sequence[Migration] | None) -> State:
    """The state, if migrating can mend it. Raises StoreRefused."""
    found = await state(connection, steps)
    if problem := found.conflict():
        raise StoreRefused(problem=problem)
    return found


async def _take_turn(connection: AsyncConnection) -> None:
    """Returns when nobody else migrates, however long that takes.

    It asks again and again: a statement that waited would hold a snapshot meanwhile, and end with its timeout.
    """
    waiting = False
    while not await _is_so(connection, "try_lock", lock=_ADVISORY_LOCK):
        if not waiting:
            _log.info("another process is migrating, waiting for it")
        waiting = True
        await asyncio.sleep(_ASK_AGAIN_S)


async def _is_so(connection: AsyncConnection, question: str, **values: object) -> bool:
    row = await (await connection.execute(SQL[question], values)).fetchone()
    return row is not None and bool(row[0])


async def _apply(connection: AsyncConnection, step: Migration) -> None:
    _log.info("applying migration %d (%s)", step.number, step.name)
    try:
        async with connection.transaction():
            await connection.execute(SQL["take_your_time"])
            await connection.execute(sql.SQL(step.text), prepare=False)
            await connection.execute(SQL["record"], {"number": step.number, "name": step.name, "sha256": step.sha256})
    except psycopg.Error as error:
        raise _failed(step, error) from error


_AGAIN = "; run `sfm migrate` again, it goes on from there"
_HINTS: Mapping[type[psycopg.Error], str] = {
    pg.InsufficientPrivilege: (
        "; run `sfm migrate` as the owner of the schema sfm; where there is none yet, GRANT CREATE ON DATABASE to this user, "
        "or CREATE SCHEMA sfm AUTHORIZATION for it"
    ),
    pg.LockNotAvailable: "; something long uses what it changes, a pg_dump perhaps: run `sfm migrate` again after it",
    pg.ReadOnlySqlTransaction: "; a standby, or default_transaction_read_only: name the primary in SFM_POSTGRES_URL",
}


def _failed(step: Migration, error: psycopg.Error) -> StoreUnavailable:
    """What to tell of a step that is undone. Only where the connection was lost it may be there: then it is there whole."""
    what, text = f"migration {step.number} ({step.name})", error.diag.message_primary or " ".join(str(error).split())
    hint = _HINTS.get(type(error), "")
    if isinstance(error, psycopg.OperationalError):
        return StoreUnavailable(problem=f"{what} was interrupted: {text}{hint or _AGAIN}")
    return StoreRefused(problem=f"{what} failed, nothing of it is left: {text}{hint}")
