"""What a transaction makes of a namespace's memories: the checks, the same in every engine.

Nothing here reads or writes. An engine locks the namespace's row, finds what it has of each key, asks here what to do, and
executes it. So revisions are given in the order of the commits, without a gap that could still be filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from msgspec import structs

from sfm_grpc.errors import AlreadyExists, InvalidRequest, NotFound, QuotaExceeded, VersionConflict
from sfm_grpc.model import (
    Buffer,
    DeleteLink,
    DeleteMemory,
    Distance,
    DropSpace,
    ExpireMemory,
    LimitPolicy,
    MemoryChange,
    MemoryReceipt,
    Outcome,
    Part,
    PurgeMemory,
    PutLink,
    PutMemory,
    RestoreMemory,
    Scope,
    Space,
    UndeleteMemory,
)
from sfm_grpc.storage.memory_writes import (
    Decided,
    Held,
    Known,
    Write,
    WriteDrop,
    WriteErase,
    WriteLink,
    WriteMark,
    WritePut,
    WriteUnlink,
)

EMPTY = Space(
    number=0,
    dimension=0,
    distance=Distance.COSINE,
    revision=0,
    memories=0,
    vectors=0,
    payload_bytes=0,
    tombstones=0,
    create_time_us=0,
    update_time_us=0,
)
"""A namespace that does not exist yet."""

# Below and above, a float32 length cannot be divided by.
_LENGTH_MIN, _LENGTH_MAX = 1e-18, 1e18
# A square of a length between these is of one well within, however float32 rounds.
_SQUARE_MIN, _SQUARE_MAX = 1e-30, 1e30


def decide(scope: Scope, changes: Sequence[MemoryChange], space: Space | None, held: Held, time_us: int) -> Decided:
    """What the changes make of a namespace; `space` is its row, also of one that was dropped.

    Raises AlreadyExists, VersionConflict, NotFound (of a partial put, an undeletion, a link's ends, a namespace to drop),
    InvalidRequest (of a vector), QuotaExceeded.
    """
    before = space or EMPTY
    # A clock that stepped back must not make the order of times another than that of revisions.
    now_us = max(time_us, before.update_time_us)
    decision = _Decision(scope, before if before.exists else replace(before, create_time_us=now_us), now_us, held)
    for change in changes:
        if isinstance(change, DropSpace):
            return decision.dropped(change, before)
        decision.take(change)
    return decision.made()


def is_near_limit(space: Space | None, changes: Sequence[MemoryChange]) -> bool:
    """Whether these could be more than the namespace may have: then it matters how many of its memories have expired."""
    return space is not None and 0 < space.memories_max < space.memories + len(changes)


def created(scope: Scope, found: Space | None, dimension: int, distance: Distance, time_us: int) -> tuple[Space, bool]:
    """What a namespace is once it was created, and whether it was there; `found` is its row, also of one that was dropped.

    Raises AlreadyExists for one that has another dimension, or another distance.
    """
    before = found or EMPTY
    if before.exists and (before.dimension, before.distance) == (dimension, distance):
        return before, True
    if before.dimension:
        raise AlreadyExists(what="namespace", namespace=scope.namespace)
    created_us, updated_us = before.create_time_us or time_us, before.update_time_us or time_us
    made = replace(before, dimension=dimension, distance=distance, create_time_us=created_us, update_time_us=updated_us)
    return made, before.exists


def check_vector(put: PutMemory, vector: Buffer, scope: Scope, space: Space) -> Space:
    """The namespace, whose dimension the first vector fixes. Raises InvalidRequest for a vector that it does not take."""
    size, field = len(vector) // 4, f"{put.field}.memory.vector"
    if size != space.dimension:
        if space.dimension:
            problem = f"has {size} numbers; the vectors of {scope.namespace!r} have {space.dimension}"
            raise InvalidRequest(field=field, problem=problem)
        space = replace(space, dimension=size)
    if space.distance is Distance.COSINE:
        numbers = np.frombuffer(vector, "<f4")
        # In float32 when that says enough: less than half of the time.
        if not _SQUARE_MIN <= float(np.vdot(numbers, numbers)) <= _SQUARE_MAX:
            length = float(np.linalg.norm(numbers.astype(np.float64)))
            if not _LENGTH_MIN <= length <= _LENGTH_MAX:
                problem = f"has the length {length:g}; under COSINE it must be from {_LENGTH_MIN:g} to {_LENGTH_MAX:g}"
                raise InvalidRequest(field=field, problem=problem)
    return space


class _Decision:
    """A transaction's changes, one after the other."""

    def __init__(self, scope: Scope, space: Space, now_us: int, held: Held) -> None:
        self._scope = scope
        self._space = space
        self._now_us = now_us
        self._held = held
        self._writes: list[Write] = []
        self._receipts: list[MemoryReceipt] = []
        self._revision = space.revision
        self._memories = self._vectors = self._payload_bytes = self._tombstones = 0

    def made(self) -> Decided:
        """What came of them."""
        s = self._space
        after = replace(
            s,
            revision=self._revision,
            memories=s.memories + self._memories,
            vectors=s.vectors + self._vectors,
            payload_bytes=s.payload_bytes + self._payload_bytes,
            tombstones=s.tombstones + self._tombstones,
            update_time_us=self._now_us if self._writes else s.update_time_us,
        )
        living = after.memories - self._held.expired
        if 0 < s.memories_max < living and self._memories > 0 and s.limit_policy is LimitPolicy.REFUSE:
            raise QuotaExceeded(namespace=self._scope.namespace, memories=living, memories_max=s.memories_max)
        return Decided(after, self._now_us, tuple(self._writes), tuple(self._receipts))

    def take(self, change: MemoryChange) -> None:
        """Decides one change."""
        known = self._held.known.get(change.key)
        living = known if known is not None and known.is_living(self._now_us) else None
        if isinstance(change, PutMemory):
            self._put(change, known, living)
        elif isinstance(change, DeleteMemory):
            self._check_revision(change.key, change.if_revision, living, change.field)
            if living is None:
                self._unchanged(change.key, None)
            else:
                self._mark(change.key, living, Outcome.DELETED)
        elif isinstance(change, UndeleteMemory):
            self._undelete(change, known, living)
        elif isinstance(change, RestoreMemory):
            self._restore(change, known, living)
        elif isinstance(change, PurgeMemory):
            self._erase(change.key, known, Outcome.PURGED)
        elif isinstance(change, ExpireMemory):
            self._expire(change, known)
        elif isinstance(change, PutLink):
            self._link(change)
        elif isinstance(change, DeleteLink):
            self._unlink(change)
        else:
            raise AssertionError(f"{change} is not decided beside others")

    def dropped(self, change: DropSpace, before: Space) -> Decided:
        """What comes of the namespace's end."""
        if not before.exists:
            if change.required:
                raise NotFound(what="namespace", namespace=self._scope.namespace)
            return Decided(before, self._now_us, (), (MemoryReceipt("", Outcome.UNCHANGED, 0, b"", 0, 0),))
        if change.if_revision not in (None, before.revision):
            raise self._conflict(change.if_revision, before.revision, before.update_time_us, key="", field="if_revision")
        after = replace(EMPTY, number=before.number, revision=before.revision + 1, update_time_us=self._now_us)
        receipt = MemoryReceipt("", Outcome.DROPPED, after.revision, b"", before.create_time_us, self._now_us)
        return Decided(after, self._now_us, (WriteDrop(),), (receipt,))

    def _living(self, key: str) -> Known | None:
        known = self._held.known.get(key)
        return known if known is not None and known.is_living(self._now_us) else None

    # ---- one of each kind

    def _put(self, put: PutMemory, known: Known | None, living: Known | None) -> None:
        if put.if_absent and living is not None:
            self._unchanged(put.key, living)
            return
        if put.create_only and living is not None:
            what = {"what": "memory", "namespace": self._scope.namespace, "key": put.key}
            raise AlreadyExists(**what, revision=living.revision, field=put.field)
        self._check_revision(put.key, put.if_revision, living, put.field)
        if put.partial and living is None:
            raise NotFound(what="memory", namespace=self._scope.namespace, names=(put.key,))
        is_whole = put.parts == Part.ALL
        sets_payload, sets_vector = (is_whole or part in put.parts for part in (Part.PAYLOAD, Part.VECTOR))
        if put.vector is not None and sets_vector:
            self._space = check_vector(put, put.vector, self._scope, self._space)
        self._count(known, -1)
        self._memories += 1
        self._vectors += (put.vector is not None) if sets_vector else bool(living and living.has_vector)
        self._payload_bytes += len(put.payload) if sets_payload else (living.payload_bytes if living else 0)
        created_us = living.create_time_us if living else self._now_us
        revision = self._next()
        self._writes.append(WritePut(put, revision, created_us, anew=known is not None and living is None))
        digest = put.digest if sets_payload else (living.digest if living else b"")
        outcome = Outcome.UPDATED if living else Outcome.CREATED
        self._receipts.append(MemoryReceipt(put.key, outcome, revision, digest, created_us, self._now_us))

    def _mark(self, key: str, known: Known, outcome: Outcome) -> None:
        deleting = outcome is Outcome.DELETED
        sign = -1 if deleting else 1
        self._memories += sign
        self._vectors += sign * known.has_vector
        self._payload_bytes += sign * known.payload_bytes
        self._tombstones -= sign
        revision = self._next()
        self._writes.append(WriteMark(key, revision, self._now_us if deleting else 0))
        self._receipts.append(MemoryReceipt(key, outcome, revision, known.digest, known.create_time_us, self._now_us))

    def _undelete(self, change: UndeleteMemory, known: Known | None, living: Known | None) -> None:
        if living is not None:
            self._unchanged(change.key, living)
            return
        gone = known is None or not known.digest or known.delete_time_us < change.deleted_since_us
        # What expired would be gone again at once.
        if known is None or gone or not structs.replace(known, delete_time_us=0).is_living(self._now_us):
            raise NotFound(what="deleted memory", namespace=self._scope.namespace, names=(change.key,))
        self._mark(change.key, known, Outcome.UNDELETED)

    def _restore(self, change: RestoreMemory, known: Known | None, living: Known | None) -> None:
        left = known is not None and living is None and known.revision == change.revision and known.digest
        if known is None or not left or not structs.replace(known, delete_time_us=0).is_living(self._now_us):
            self._unchanged(change.key, living)
        else:
            self._mark(change.key, known, Outcome.UNDELETED)

    def _erase(self, key: str, known: Known | None, outcome: Outcome) -> None:
        if known is None or (known.delete_time_us and not known.digest):
            self._unchanged(key, None)
            return
        self._count(known, -1)
        self._tombstones += 1
        revision = self._next()
        self._writes.append(WriteErase(key, revision, self._now_us))
        self._receipts.append(MemoryReceipt(key, outcome, revision, b"", known.create_time_us, self._now_us))

    def _expire(self, change: ExpireMemory, known: Known | None) -> None:
        if known is None or known.delete_time_us or known.is_living(self._now_us):
            self._unchanged(change.key, None)
        else:
            self._erase(change.key, known, Outcome.EXPIRED)

    def _link(self, change: PutLink) -> None:
        source, _, target = change.name
        absent = tuple(dict.fromkeys(end for end in (source, target) if self._living(end) is None))
        if absent:
            raise NotFound(what="memory", namespace=self._scope.namespace, names=absent)
        created_us = self._held.links.get(change.name, self._now_us)
        self._writes.append(WriteLink(change.name, change.weight, created_us))
        self._receipts.append(self._of_link(change, Outcome.LINKED, created_us))

    def _unlink(self, change: DeleteLink) -> None:
        created_us = self._held.links.get(change.name)
        if created_us is None:
            self._receipts.append(self._of_link(change, Outcome.UNCHANGED, 0))
            return
        self._writes.append(WriteUnlink(change.name))
        self._receipts.append(self._of_link(change, Outcome.UNLINKED, created_us))

    def _of_link(self, change: PutLink | DeleteLink, outcome: Outcome, created_us: int) -> MemoryReceipt:
        living = self._living(change.key)
        revision, digest = (living.revision, living.digest) if living else (0, b"")
        return MemoryReceipt(change.key, outcome, revision, digest, created_us, self._now_us, change.name)

    def _unchanged(self, key: str, living: Known | None) -> None:
        told = (living.revision, living.digest, living.create_time_us, living.update_time_us) if living else (0, b"", 0, 0)
        self._receipts.append(MemoryReceipt(key, Outcome.UNCHANGED, *told))

    # ---- checks and counts

    def _check_revision(self, key: str, expected: int | None, living: Known | None, field: str) -> None:
        current = living.revision if living else 0
        if expected is not None and expected != current:
            raise self._conflict(expected, current, living.update_time_us if living else 0, key=key, field=field)

    def _conflict(self, expected: int | None, current: int, time_us: int, *, key: str, field: str) -> VersionConflict:
        return VersionConflict(
            namespace=self._scope.namespace,
            expected=expected or 0,
            current=current,
            committer="",
            commit_time_us=time_us,
            key=key,
            field=field,
        )

    def _count(self, known: Known | None, sign: int) -> None:
        """Takes a key out of the counts, in whatever state it is."""
        if known is None:
            return
        if known.delete_time_us:
            self._tombstones += sign
            return
        self._memories += sign
        self._vectors += sign * known.has_vector
        self._payload_bytes += sign * known.payload_bytes

    def _next(self) -> int:
        self._revision += 1
        return self._revision
