"""One connection: how it is made, what the session is told, and a watch over what it is asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
from collections.abc import Iterator

import psycopg
from psycopg import AsyncConnection, pq
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.numeric import Int8BinaryDumper

from sfm_grpc.errors import StoreRefused
from sfm_grpc.storage import statements
from sfm_grpc.storage.postgres.errors import connecting
from sfm_grpc.storage.postgres.options import PostgresOptions

# How much later than Postgres itself should have, we give a statement up: it, or the network, hangs.
_MARGIN_S = 1.0

SQL = statements.load(__package__, "session.sql")


def parameters(options: PostgresOptions) -> dict[str, object]:
    """What libpq is told: the address as it was given, and what it leaves open. Raises StoreRefused for one that is none."""
    try:
        given = conninfo_to_dict(options.url)
    except psycopg.ProgrammingError as error:
        raise StoreRefused(
            problem=f"SFM_POSTGRES_URL is not an address: {' '.join(str(error).split())}; "
            "write postgresql://user:password@host:5432/database"
        ) from None
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
    return usual | {k: v for k, v in given.items() if v is not None}


def place(options: PostgresOptions) -> str:
    """Where it is, without any secret: `host:port/database`. For an address that `parameters` takes."""
    usual = {option.keyword.decode(): option.val.decode() for option in pq.Conninfo.get_defaults() if option.val}
    told = {"host": "localhost", "dbname": "", **usual, **conninfo_to_dict(options.url)}
    host = f"[{told['host']}]" if ":" in str(told["host"]) else told["host"]
    return f"{host}:{told['port']}/{told['dbname'] or told['user']}"


async def connect(options: PostgresOptions) -> AsyncConnection:
    """A connection outside the pool. Raises StoreUnavailable, StoreRefused."""
    try:
        connection = await AsyncConnection.connect(**parameters(options), autocommit=True)  # type: ignore[arg-type]
        await configure(connection, options)
    except psycopg.Error as error:
        raise connecting(error) from error
    return connection


async def configure(connection: AsyncConnection, options: PostgresOptions) -> None:
    """Tells a new session what it needs to know."""
    # Integers of any size as bigint: else each size is another statement to prepare.
    connection.adapters.register_dumper(int, Int8BinaryDumper)
    # Prepared when first used: the same few statements over and over.
    connection.prepare_threshold = 0
    timeouts = {
        "statement_ms": str(round(options.statement_timeout_s * 1000)),
        "lock_ms": str(round(options.lock_timeout_s * 1000)),
    }
    await connection.execute(SQL["configure"], timeouts)


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


def _hang_up(connection: AsyncConnection) -> None:
    if connection.closed:
        return
    # Shut down, not closed: psycopg is waiting for this very socket, and finds it at its end.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)
