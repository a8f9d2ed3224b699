"""Transactions that write memories, and perhaps matrices with them: all in one, both or neither."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
from psycopg import AsyncConnection
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from sfm_grpc.errors import DeadlineExceeded, StoreUnavailable
from sfm_grpc.model import CommitResult, MemoryWrites, Transaction
from sfm_grpc.storage import decisions
from sfm_grpc.storage.memories import decide, is_near_limit
from sfm_grpc.storage.memory_writes import Decided
from sfm_grpc.storage.postgres import commit, memories, prunes, spaces
from sfm_grpc.storage.postgres.commit import Packed
from sfm_grpc.storage.postgres.errors import Sent
from sfm_grpc.storage.postgres.heads import Heads
from sfm_grpc.storage.prunes import begin

# A request id or a namespace that others are making at this moment is waited for, and then looked at.
_ROUNDS_MAX = 10
# Deciding so many takes some milliseconds.
_CHANGES_AT_ONCE = 1_000


class _AgainError(Exception):
    """Somebody else has just made what this was to make: the next look finds it."""


async def commit_with_memories(
    connection: AsyncConnection, t: Transaction, packed: Packed, heads: Heads, *, keys_max: int, sent: Sent
) -> CommitResult:
    """Executes one transaction that writes memories; see the contract for the order of the checks."""
    assert t.memories is not None
    for _ in range(_ROUNDS_MAX):
        if time.monotonic() > t.deadline:
            raise DeadlineExceeded
        try:
            return await _commit(connection, t, t.memories, packed, heads, keys_max=keys_max, sent=sent)
        except (_AgainError, pg.UniqueViolation):
            sent.writing = False  # undone
    raise StoreUnavailable(problem=f"others made the same as this in {t.scope.namespace!r} {_ROUNDS_MAX} times while it tried to")


async def _commit(
    connection: AsyncConnection, t: Transaction, asked: MemoryWrites, packed: Packed, heads: Heads, *, keys_max: int, sent: Sent
) -> CommitResult:
    async with _undone_unless_committed(connection), connection.pipeline():
        await connection.execute(b"BEGIN")
        looked = await memories.lock(connection, t, asked)
        version = functools.partial(commit.commit, connection, t, packed, heads, keys_max=keys_max, sent=sent)
        first = decisions.first_answer(t, looked.remembered)
        if first is not None:
            return await version(replayed=True) if t.changes else first
        if is_near_limit(looked.space, asked.changes):
            looked = replace(
                looked, held=replace(looked.held, expired=await spaces.count_expired(connection, t.scope, t.time_us))
            )
        decided = await _decided(t, asked, looked)
        found = await prunes.look(connection, t)
        told = replace(decisions.result(t, None, decided), audit_number=found.number if found else 0)
        made = await version(memories=decisions.kept_of_memories(told)) if t.changes else None
        done = replace(made, memories=told.memories, audit_number=told.audit_number) if made else told
        pruned = None
        if t.prune is not None and found is not None:
            pruning = begin(t, t.prune, found, space=looked.space, held=looked.held)
            pruned = pruning.made(decided, done.number)
            done = replace(done, audit=pruned.audit)
        if t.validate_only:
            return done
        number = looked.space.number if looked.space else 0
        if decided.writes and not number:
            number = await _create(connection, t)
        sent.writing = True
        if decided.writes:
            await memories.write(connection, number, decided)
        if t.prune is not None and pruned is not None:
            await prunes.write(connection, t, t.prune, pruned)
        if made is None:
            await memories.remember(connection, t, done)
        for place, (event, about) in enumerate(decisions.events(t, done)[bool(made) :], start=1):
            await memories.tell(connection, t.scope, event, about, done.commit_time_us, place=place)
        await connection.execute(b"COMMIT")
    return done


async def _decided(t: Transaction, asked: MemoryWrites, looked: memories.Looked) -> Decided:
    """What the changes make of the namespace; very many are decided on a thread, and the event loop goes on."""
    work = functools.partial(decide, t.scope, asked.changes, looked.space, looked.held, t.time_us)
    return work() if len(asked.changes) <= _CHANGES_AT_ONCE else await asyncio.to_thread(work)


async def _create(connection: AsyncConnection, t: Transaction) -> int:
    """Makes the namespace's row; its number."""
    number = await spaces.create(connection, t.scope)
    if number is None:
        raise _AgainError
    return number


@contextlib.asynccontextmanager
async def _undone_unless_committed(connection: AsyncConnection) -> AsyncIterator[None]:
    """Leaves no transaction open, however it ends."""
    try:
        yield
    finally:
        if not connection.closed and connection.info.transaction_status is not TransactionStatus.IDLE:
            with contextlib.suppress(psycopg.Error):
                await connection.execute(b"ROLLBACK")
