"""The one write path in Postgres: look where it must, decide, then one statement that compares, writes and commits.

What a namespace's newest version holds is remembered from the last commit (`Heads`), so a commit that builds on it is one round
trip. Nothing is refused from memory: before an error is told, Postgres is asked.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import AsyncConnection
from psycopg import errors as pg

from sfm_grpc.errors import DeadlineExceeded, SfmError, StoreUnavailable
from sfm_grpc.model import Buffer, CacheSeen, CommitResult, Entry, PutMatrix, Transaction, Version
from sfm_grpc.storage import codec, decisions, statements
from sfm_grpc.storage.decisions import Head, Remembered
from sfm_grpc.storage.postgres.errors import Sent
from sfm_grpc.storage.postgres.heads import Heads, KnownHead
from sfm_grpc.storage.postgres.packing import Packing
from sfm_grpc.storage.postgres.reads import seen

SQL = statements.load(__package__, "commit.sql")

# Others may be faster so many times in a row; a caller that expects a version is answered in the first.
_ROUNDS_MAX = 50

_NOTHING_PUT: dict[str, object] = {"key": None, "certificate": None, "sha256": None, "packing": None, "numbers": None}
_NOT_REMEMBERED: dict[str, object] = {"method": None, "request_id": None, "content_digest": None, "receipt": None}

Packed = Mapping[str, tuple[Packing, Buffer]]
"""By key: the numbers as they are stored."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What Postgres says of a transaction's request, namespace and keys."""

    remembered: Remembered | None
    known: KnownHead | None
    head: Head | None
    held: Mapping[str, Entry]
    """What the version to build upon holds."""
    target_kept: bool
    """The version to restore is kept; True when none is."""
    kinds: Mapping[str, int]
    seen: CacheSeen | None
    """What the head's row said of its cache; None without a head."""


async def commit(
    connection: AsyncConnection,
    t: Transaction,
    packed: Packed,
    heads: Heads,
    *,
    keys_max: int,
    sent: Sent,
    memories: bytes = b"",
    replayed: bool = False,
) -> CommitResult:
    """Executes one transaction; see the contract for the order of the checks.

    `memories`: what is remembered of them. `replayed`: it is known that the request was answered before.
    """
    known = heads.get(t.scope)
    if known is not None and not replayed and _is_plain(t, known, keys_max):
        version = decisions.next_version(t, known.head, known.held, keys_max)
        made = await _write(connection, t, known, version, packed, new_keys=(), sent=sent, memories=memories)
        if made is not None:
            return _done(t, version, heads, *made)
    for _ in range(_ROUNDS_MAX):
        if time.monotonic() > t.deadline:
            raise DeadlineExceeded
        found = await _look(connection, t)
        answer = decisions.first_answer(t, found.remembered)
        if answer is not None and found.seen is not None and found.seen.version >= answer.number:
            return replace(answer, seen=found.seen)
        if answer is not None:
            continue  # it was made after the head was looked at: what that row says of the cache is not true of it
        version = _decide(t, found, keys_max)
        if t.validate_only:
            return CommitResult(None, version.version, version.commit_time_us, t.receipt, replayed=False, seen=found.seen)
        new_keys = [c for c in t.changes if isinstance(c, PutMatrix) and c.key not in found.kinds]
        made = await _write(connection, t, found.known, version, packed, new_keys=new_keys, sent=sent, memories=memories)
        if made is not None:
            return _done(t, version, heads, *made)
        # Someone else was faster. Looking again tells a caller that expected a version of the conflict, or of its first answer.
    raise StoreUnavailable(problem=f"others committed to {t.scope.namespace!r} {_ROUNDS_MAX} times while this commit tried to")


def _is_plain(t: Transaction, known: KnownHead, keys_max: int) -> bool:
    """Whether what is remembered is all there is to know, should it still be true: else Postgres is asked first."""
    if t.validate_only or decisions.restored_version(t) or t.expected_version not in (None, known.head.version):
        return False
    puts = [c for c in t.changes if isinstance(c, PutMatrix)]
    if len(known.held) + len(puts) > keys_max:
        return False
    held = [(known.held.get(c.key), c) for c in puts]
    # A certificate that could not be read has no digest, and its kind means nothing.
    return all(e is not None and e.certificate.digest and e.certificate.kind is c.matrix.kind for e, c in held)


def _decide(t: Transaction, found: _Found, keys_max: int) -> Version:
    try:
        return _decided(t, found, keys_max)
    except SfmError as error:
        error.seen = found.seen
        raise


def _decided(t: Transaction, found: _Found, keys_max: int) -> Version:
    decisions.check_expected(t, found.head)
    decisions.check_restorable(t, found.head)
    if found.head is not None and not found.target_kept:
        raise decisions.gone(t, found.head)
    decisions.check_kinds(t, found.kinds)
    return decisions.next_version(t, found.head, found.held, keys_max)


def _done(t: Transaction, version: Version, heads: Heads, made: KnownHead, seen: CacheSeen) -> CommitResult:
    heads.put(t.scope, made)
    return CommitResult(version, version.version, version.commit_time_us, t.receipt, replayed=False, seen=seen)


# ---- looking


async def _look(connection: AsyncConnection, t: Transaction) -> _Found:
    """One round trip. The head is looked at before the request: where it is newer than a request, the request is seen too."""
    scope = _scope(t)
    puts = [c.key for c in t.changes if isinstance(c, PutMatrix)]
    async with connection.pipeline():
        look = await connection.execute(SQL["look"], scope | {"restored": decisions.restored_version(t)}, binary=True)
        request = kinds = None
        if t.request is not None:
            names = {"method": t.request.method, "request_id": t.request.request_id}
            request = await connection.execute(SQL["find_request"], scope | names, binary=True)
        if puts:
            kinds = await connection.execute(SQL["find_kinds"], scope | {"puts": puts}, binary=True)
    rows: list[tuple[Any, ...]] = await look.fetchall()
    remembered = await request.fetchone() if request is not None else None
    found: dict[str, int] = dict(await kinds.fetchall()) if kinds is not None else {}
    return _found(rows, Remembered(*remembered) if remembered else None, found)


def _found(rows: Sequence[tuple[Any, ...]], remembered: Remembered | None, kinds: Mapping[str, int]) -> _Found:
    if not rows:
        return _Found(remembered, None, None, {}, True, kinds, None)
    namespace_id, commit_id, compactions, version, oldest, commit_time_us, committer, target_kept, *cached = rows[0][:12]
    head = Head(version, oldest, commit_time_us, committer)
    held = {
        key: Entry(key, codec.certificate_from_json(certificate or ""), put_version)
        for key, put_version, certificate in (row[12:] for row in rows)
        if key is not None
    }
    known = KnownHead(namespace_id, commit_id, compactions, head, held)
    return _Found(remembered, known, head, held, target_kept, kinds, seen(version, *cached))


# ---- writing


async def _write(
    connection: AsyncConnection,
    t: Transaction,
    known: KnownHead | None,
    version: Version,
    packed: Packed,
    *,
    new_keys: Sequence[PutMatrix],
    sent: Sent,
    memories: bytes,
) -> tuple[KnownHead, CacheSeen] | None:
    """Writes a version, in one round trip; None, and nothing has happened, where the namespace is no longer as `known` says."""
    commit_id = secrets.randbits(63)
    bodies = [_body(c, packed) for c in t.changes if isinstance(c, PutMatrix)] or [_NOTHING_PUT]
    values = {
        **_scope(t),
        **_version(t, version),
        **_request(t),
        **_event(t, version),
        **_known(known),
        **{f"{name}_{i}": value for i, body in enumerate(bodies) for name, value in body.items()},
        "commit_id": commit_id,
        "memories": memories,
        "new_keys": [c.key for c in new_keys],
        "new_kinds": [c.matrix.kind.value for c in new_keys],
    }
    sent.writing = True
    try:
        cursor = await connection.execute(_statement("advance" if known else "create", len(bodies)), values, binary=True)
    except pg.UniqueViolation as error:
        if error.diag.constraint_name != "request_pkey" or t.memories is not None:
            raise  # a defect, or a database put together of two; or undone together with memories
        row = None  # the request id, used since, or by another request
    else:
        row = await cursor.fetchone()
    if row is None:
        sent.writing = False
        return None
    head = Head(version.version, known.head.oldest if known else 1, version.commit_time_us, version.committer)
    compactions = known.compactions if known else 0
    made = KnownHead(row[0], commit_id, compactions, head, {e.key: e for e in version.entries})
    return made, seen(*row[1:])


@functools.lru_cache(maxsize=256)
def _statement(head: str, bodies: int) -> bytes:
    """The one statement, for so many matrices."""
    rows = ",\n    ".join(SQL["body"].replace("{i}", str(i)) for i in range(bodies))
    return SQL["commit"].replace("{head}", SQL[head]).replace("{bodies}", rows).encode()


def _version(t: Transaction, version: Version) -> dict[str, object]:
    return {
        "commit_time_us": version.commit_time_us,
        "time_us": t.time_us,
        "committer": version.committer,
        "metadata": codec.to_json(dict(version.metadata)),
        "valid": int(version.valid),
        "restored": version.restored_version,
        "changed_keys": codec.to_json(version.changed_keys),
        "keys": [e.key for e in version.entries],
        "put_versions": [e.put_version for e in version.entries],
    }


def _known(known: KnownHead | None) -> dict[str, object]:
    if known is None:
        return {}
    return {
        "namespace_id": known.namespace_id,
        "expected": known.head.version,
        "known_id": known.commit_id,
        "compactions": known.compactions,
    }


def _body(put: PutMatrix, packed: Packed) -> dict[str, object]:
    packing, numbers = packed.get(put.key, (Packing.WHOLE, put.matrix.numbers))
    return {
        "key": put.key,
        "certificate": codec.certificate_to_json(put.certificate),
        "sha256": put.certificate.digest,
        "packing": packing.value,
        "numbers": numbers,
    }


def _request(t: Transaction) -> dict[str, object]:
    if t.request is None:
        return _NOT_REMEMBERED
    return {
        "method": t.request.method,
        "request_id": t.request.request_id,
        "content_digest": t.request.content_digest,
        "receipt": t.receipt,
    }


def _event(t: Transaction, version: Version) -> dict[str, object]:
    assert t.event_of is not None, "no version without its event"
    event = t.event_of(version)
    return {"topic": event.topic, "payload": codec.to_json(event.payload)}


def _scope(t: Transaction) -> dict[str, object]:
    return {"tenant": t.scope.tenant, "namespace": t.scope.namespace}
