"""One connection: how it is made, what the session is told, and a watch over what it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import select
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping

import psycopg
from psycopg import AsyncConnection, pq
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.numeric import Int8BinaryDumper

from sfm_grpc.errors import DeadlineExceeded, StoreRefused, StoreUnavailable
from sfm_grpc.storage import statements
from sfm_grpc.storage.postgres.errors import Sent, connecting
from sfm_grpc.storage.postgres.options import PostgresOptions

# How much later than Postgres itself should have, we give a statement up: it, or the network, hangs.
_MARGIN_S = 1.0

SQL = statements.load(__package__, "session.sql")


def parameters(options: PostgresOptions) -> dict[str, object]:
    """What libpq is told: the address as it was given, and what it leaves open. Raises StoreRefused for one that is none."""
    given = _parsed(options.url)
    usual: dict[str, object] = {
        "application_name": f"sfm-grpc {options.node}"[:63],
        "connect_timeout": max(2, round(options.connect_timeout_s)),  # libpq's least
        "client_encoding": "UTF8",
        # A peer that is gone without a word is noticed, also by a connection that only waits.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": round((options.statement_timeout_s + _MARGIN_S) * 1000),
    }
    return usual | given


def _parsed(url: str) -> dict[str, object]:
    """The parts of an address. Raises StoreRefused, without a word of the address: the password may stand anywhere in it."""
    try:
        given: dict[str, object] = {name: value for name, value in conninfo_to_dict(url).items() if value is not None}
        problem = _misread(given)
    except psycopg.ProgrammingError as error:
        problem = re.sub('".*"', "…", " ".join(str(error).split()))
    if problem:
        raise StoreRefused(
            problem=f"SFM_POSTGRES_URL is not an address: {problem}; write postgresql://user:password@host:5432/database, "
            "with %40 for @, %2F for /, %3A for : and %25 for % in its parts"
        )
    return given


def _misread(given: Mapping[str, object]) -> str:
    """What shows that an address was not read as it was meant; '' when nothing does."""
    host, port, database = (str(given.get(name, "")) for name in ("host", "port", "dbname"))
    # An @ of the password begins the host; a / of it begins the database, and the host is the user's name.
    if "@" in host[1:] or ("@" in database and "user" not in given):
        return "its password has a character that ends it too soon"
    if not all(one == "" or (one.isdecimal() and 0 < int(one) < 65_536) for one in port.split(",")):
        return "its port is not one"
    return ""


def place(options: PostgresOptions) -> str:
    """Where it is, without any secret: `host:port/database`. For an address that `parameters` takes."""
    usual = {option.keyword.decode(): option.val.decode() for option in pq.Conninfo.get_defaults() if option.val}
    told = {name: str(value) for name, value in {"host": "", "dbname": "", **usual, **conninfo_to_dict(options.url)}.items()}
    hosts, ports = told["host"].split(","), told["port"].split(",")
    ends = zip(hosts, ports if len(ports) == len(hosts) else ports * len(hosts), strict=False)
    where = ",".join(f"{f'[{host}]' if ':' in host else host or 'localhost'}:{port or usual['port']}" for host, port in ends)
    return f"{where}/{told['dbname'] or told['user']}"


async def connect(options: PostgresOptions, *, commits: bool = False) -> AsyncConnection:
    """A connection outside the pool; see `configure`. Raises StoreUnavailable, StoreRefused."""
    try:
        connection = await AsyncConnection.connect(**parameters(options), autocommit=True)  # type: ignore[arg-type]
        try:
            await configure(connection, options, commits=commits)
        except BaseException:
            await connection.close()
            raise
    except (psycopg.Error, UnicodeError) as error:
        raise connecting(error) from error
    return connection


async def configure(connection: AsyncConnection, options: PostgresOptions, *, commits: bool) -> None:
    """Tells a new session what it needs to know.

    Raises StoreRefused for one that is to commit and does not promise to keep what it acknowledges: that is each session's own.
    """
    # Integers of any size as bigint: else each size is another statement to prepare.
    connection.adapters.register_dumper(int, Int8BinaryDumper)
    # Prepared when first used: the same few statements over and over.
    connection.prepare_threshold = 0
    timeouts = {
        "statement_ms": str(round(options.statement_timeout_s * 1000)),
        "lock_ms": str(round(options.lock_timeout_s * 1000)),
    }
    with watched(connection, options.connect_timeout_s):  # a pool's worker that waited for ever would make no more connections
        cursor = await connection.execute(SQL["configure"], timeouts)
        promised = await cursor.fetchone()
    if commits and promised is not None and promised[0] == "off" and not options.allow_unsafe_durability:
        raise StoreRefused(problem="Postgres may lose what it acknowledges (synchronous_commit = off): turn it on for this user")


def is_gone(connection: AsyncConnection) -> bool:
    """Whether an idle connection was closed behind our back: one that has something to say without being asked says goodbye.

    Found out before anything is sent, what was not sent has certainly not happened. It takes 2 µs.
    """
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


@contextlib.contextmanager
def watched(connection: AsyncConnection, seconds: float) -> Iterator[None]:
    """Hangs up when what is inside takes longer: whoever waits for an answer then gets an error instead."""
    watch = asyncio.get_running_loop().call_later(seconds, _hang_up, connection)
    try:
        yield
    finally:
        watch.cancel()


def patience_s(options: PostgresOptions) -> float:
    """How long to wait for one statement's answer before hanging up."""
    return options.statement_timeout_s + _MARGIN_S


@contextlib.asynccontextmanager
async def bounded(connection: AsyncConnection, options: PostgresOptions, deadline: float, sent: Sent) -> AsyncIterator[None]:
    """Bounds what is inside twice: at `deadline` (time.monotonic()) Postgres is asked to give it up, which undoes it.

    When it has not answered long after it should have, we hang up. Raises DeadlineExceeded for what was given up, and
    StoreUnavailable for what was committed all the same: it may have been waiting for a standby, which does not have it then.
    """
    asked: list[asyncio.Task[None]] = []

    def ask() -> None:
        asked.append(asyncio.create_task(_give_up(connection)))

    loop = asyncio.get_running_loop()
    asking = loop.call_later(deadline - time.monotonic(), ask) if math.isfinite(deadline) else None
    try:
        with watched(connection, patience_s(options)):
            yield
        if asked and sent.writing:
            raise StoreUnavailable(
                problem="Postgres: the commit was given up while it waited for a standby", outcome_unknown=True
            )
    except pg.QueryCanceled as error:
        if asked:
            raise DeadlineExceeded from error
        raise
    finally:
        if asking is not None:
            asking.cancel()
        if asked:
            await asyncio.wait(asked)
            await connection.close()  # what was asked late must not meet the next caller's statement


async def _give_up(connection: AsyncConnection) -> None:
    # Where it does not even listen to that, hanging up is what is left.
    with contextlib.suppress(psycopg.Error, OSError):
        await connection.cancel_safe(timeout=_MARGIN_S)


def _hang_up(connection: AsyncConnection) -> None:
    if connection.closed:
        return
    # Shut down, not closed: psycopg is waiting for this very socket, and finds it at its end.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)
