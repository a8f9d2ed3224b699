"""What a transaction makes of what a namespace holds: the checks of `Store.commit`, the same in every engine.

Nothing here reads or writes. An engine finds the facts, asks in the contract's order, and executes what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sfm_grpc.errors import KindChanged, LimitExceeded, NotFound, RequestIdReused, VersionCompacted, VersionConflict
from sfm_grpc.model import (
    CommitResult,
    DeleteMatrix,
    Entry,
    Event,
    Kind,
    Outcome,
    PutMatrix,
    RestoreVersion,
    Transaction,
    Version,
)
from sfm_grpc.storage.memory_receipts import receipts_from_bytes, receipts_to_bytes
from sfm_grpc.storage.memory_writes import Decided

# A message of so many is well below what brokers take, a megabyte.
_CHANGES_TOLD_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Remembered:
    """A request that succeeded before."""

    content_digest: bytes
    version: int
    commit_time_us: int
    receipt: bytes
    first_time_us: int
    memories: bytes = b""
    """`kept_of_memories`."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where a namespace is."""

    version: int
    oldest: int
    commit_time_us: int
    committer: str


def first_answer(t: Transaction, found: Remembered | None) -> CommitResult | None:
    """The first answer to a request that succeeded before. Raises RequestIdReused where it asked for something else."""
    if t.request is None or found is None:
        return None
    if found.content_digest != t.request.content_digest:
        raise RequestIdReused(namespace=t.scope.namespace, reused_id=t.request.request_id, first_time_us=found.first_time_us)
    first = CommitResult(None, found.version, found.commit_time_us, found.receipt, replayed=True)
    if t.prune is not None:
        return replace(first, audit_number=int.from_bytes(found.memories, "big"))
    return replace(first, memories=receipts_from_bytes(found.memories, t.memories.changes if t.memories else ()))


def kept_of_memories(done: CommitResult) -> bytes:
    """What is remembered of them with a request: the receipts; of a prune, which may be of very many, the audit's number."""
    return done.audit_number.to_bytes(8, "big") if done.audit_number else receipts_to_bytes(done.memories)


def check_expected(t: Transaction, head: Head | None) -> None:
    """Raises VersionConflict unless the namespace is where the transaction expects it; one without a head is at 0."""
    current = head.version if head else 0
    if t.expected_version is None or t.expected_version == current:
        return
    raise VersionConflict(
        namespace=t.scope.namespace,
        expected=t.expected_version,
        current=current,
        committer=head.committer if head else "",
        commit_time_us=head.commit_time_us if head else 0,
    )


def restored_version(t: Transaction) -> int:
    """The version that the transaction restores; 0: none."""
    return next((c.version for c in t.changes if isinstance(c, RestoreVersion)), 0)


def check_restorable(t: Transaction, head: Head | None) -> None:
    """Raises NotFound for a version that never was, VersionCompacted for one below the oldest. One in a gap passes here."""
    version, namespace = restored_version(t), t.scope.namespace
    if version == 0:
        return
    if head is None:
        raise NotFound(what="namespace", namespace=namespace)
    if version > head.version:
        raise NotFound(what="version", namespace=namespace, names=(str(version),), current=head.version)
    if version < head.oldest:
        raise gone(t, head)


def gone(t: Transaction, head: Head) -> VersionCompacted:
    """The version to restore is no longer kept."""
    return VersionCompacted(namespace=t.scope.namespace, version=restored_version(t), oldest=head.oldest, current=head.version)


def check_kinds(t: Transaction, kinds: Mapping[str, int]) -> None:
    """Raises KindChanged for a key that was first committed as another kind. `kinds`: those that are fixed."""
    for change in t.changes:
        if not isinstance(change, PutMatrix):
            continue
        kind = kinds.get(change.key, change.matrix.kind)
        if kind != change.matrix.kind:
            requested = change.matrix.kind.label
            raise KindChanged(namespace=t.scope.namespace, key=change.key, kind=Kind(kind).label, requested=requested)


def next_version(t: Transaction, head: Head | None, held: Mapping[str, Entry], keys_max: int) -> Version:
    """The version that the transaction makes of a namespace that holds `held` (of a restore: what the target held).

    Raises LimitExceeded.
    """
    number = (head.version if head else 0) + 1
    after = dict(held)
    for change in t.changes:
        if isinstance(change, PutMatrix):
            after[change.key] = Entry(change.key, change.certificate, number)
        elif isinstance(change, DeleteMatrix):
            after.pop(change.key, None)
    if len(after) > keys_max:
        raise LimitExceeded(limit="keys_per_namespace_max", value=len(after), maximum=keys_max, field="updates")
    entries = tuple(after[key] for key in sorted(after, key=str.encode))
    return Version(
        version=number,
        # A clock that stepped back must not make history run backwards.
        commit_time_us=max(t.time_us, head.commit_time_us if head else 0),
        committer=t.committer,
        metadata=t.metadata,
        valid=all(e.certificate.valid for e in entries),
        restored_version=restored_version(t),
        entries=entries,
        changed_keys=tuple(c.key for c in t.changes if not isinstance(c, RestoreVersion)),
    )


def result(t: Transaction, version: Version | None, memories: Decided | None) -> CommitResult:
    """What a transaction that is no replay did, or would have done."""
    if version is None:
        time_us = memories.time_us if memories else t.time_us
        return CommitResult(None, 0, time_us, t.receipt, replayed=False, memories=memories.receipts if memories else ())
    made = None if t.validate_only else version
    told = memories.receipts if memories else ()
    return CommitResult(made, version.version, version.commit_time_us, t.receipt, replayed=False, memories=told)


def events(t: Transaction, done: CommitResult) -> Sequence[tuple[Event, int]]:
    """What the world is told of a transaction, and which version or (of memories) revision each is about; no change, no event."""
    told = []
    if done.version is not None:
        assert t.event_of is not None, "no version without its event"
        told.append((t.event_of(done.version), done.number))
    changed = [r for r in done.memories if r.outcome is not Outcome.UNCHANGED]
    for start in range(0, len(changed) if t.memories else 0, _CHANGES_TOLD_AT_ONCE):
        assert t.memories is not None
        some = changed[start : start + _CHANGES_TOLD_AT_ONCE]
        told.append((t.memories.event_of(some), max(r.revision for r in some)))
    if t.audited_as is not None and done.audit is not None:
        told.append((t.audited_as(done.audit), done.audit.number))
    return told
