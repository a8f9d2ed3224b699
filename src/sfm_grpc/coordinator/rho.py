"""Commits of ρ, restores and history: builds the transactions, and answers what was asked."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from sfm_grpc.coordinator import events, names, pages, receipts, sent_memories
from sfm_grpc.coordinator.commit import CommitPath
from sfm_grpc.coordinator.examiner import Candidate, Examiner
from sfm_grpc.coordinator.pages import PageTokens
from sfm_grpc.coordinator.reads import Reads
from sfm_grpc.coordinator.receipts import Receipt
from sfm_grpc.coordinator.sent import AdmissionRules, SentMatrix
from sfm_grpc.coordinator.sent_memories import MemoryBounds, SentMemory
from sfm_grpc.density.admission import Admitted
from sfm_grpc.errors import (
    InvalidRequest,
    KindChanged,
    LimitExceeded,
    NotFound,
    RequestIdReused,
    RhoCorrupt,
    SfmError,
    StepTooLarge,
    VersionCompacted,
)
from sfm_grpc.model import (
    CommitResult,
    DeleteMatrix,
    DeleteMemory,
    Enforcement,
    Entry,
    Event,
    Kind,
    Matrix,
    MatrixChange,
    MemoryWrites,
    Metadata,
    Prune,
    PruneAudit,
    PutMatrix,
    RequestIdentity,
    RestoreVersion,
    Scope,
    Transaction,
)
from sfm_grpc.storage.contract import Store, VersionPage
from sfm_grpc.storage.leases import Planted

_LAST_VALID_PAGE = 20


@dataclass(frozen=True, slots=True)
class RhoRules:
    """The bounds that commits and lists are held to."""

    admission: AdmissionRules
    memories: MemoryBounds
    keys_per_commit_max: int
    metadata_bytes_max: int
    page_size_max: int
    max_step: float | None
    node_id: str


@dataclass(frozen=True, slots=True)
class Mutation:
    """What every mutation says besides its changes."""

    scope: Scope
    expected_version: int | None
    request_id: str
    metadata: Metadata
    committer: str
    validate_only: bool
    deadline: float = math.inf
    """On time.monotonic(): work that has not begun by then is not begun."""


@dataclass(frozen=True, slots=True)
class Update:
    """One change that is asked for: a matrix, or (None) that the key goes away."""

    key: str
    put: SentMatrix | None
    max_step: float | None
    field: str
    """Where it stands in the request."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The answer to a commit."""

    result: CommitResult
    receipts: Sequence[Receipt]


@dataclass(frozen=True, slots=True)
class Restored:
    """The answer to a restore."""

    version: int
    commit_time_us: int
    restored_version: int
    entries: Sequence[Entry]
    replayed: bool


@dataclass(frozen=True, slots=True)
class History:
    """A page of versions and how to ask for the next."""

    page: VersionPage
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Along:
    """A prune that a commit of matrices is a part of: both or neither."""

    method: str
    memories: MemoryWrites
    content: Sequence[object]
    """What was asked for, in the form that two requests are compared by."""
    prune: Prune
    audited_as: Callable[[PruneAudit], Event]


class RhoCoordinator:
    """Decides what is admissible; executes nothing itself."""

    def __init__(
        self,
        store: Store,
        commits: CommitPath,
        reads: Reads,
        examiner: Examiner,
        rules: RhoRules,
        *,
        on_step: Callable[[float], None],
    ) -> None:
        self._store = store
        self._commits = commits
        self._reads = reads
        self._examiner = examiner
        self._rules = rules
        self._on_step = on_step

    # ---- commit

    async def commit(
        self,
        mutation: Mutation,
        updates: Sequence[Update],
        memories: Sequence[SentMemory | DeleteMemory] = (),
        along: Along | None = None,
    ) -> Committed:
        """Admits every matrix, then commits all changes as one version, and with it what happens to memories: or is pruned.

        Raises InvalidRequest, LimitExceeded, what admission raises, StepTooLarge, and what `Store.commit` raises.
        """
        expected = self._checked(mutation)
        self._check_updates(updates)
        now_us = _now_us()
        writes, content = await self._writes(mutation.scope, memories, now_us)
        if along is not None:
            writes, content = along.memories, [*along.content]
        method = along.method if along else "CommitRho"
        planted = await self._announce(method, mutation, expected)
        previous = await self._reads.matrices(mutation.scope, expected, [u.key for u in updates if u.put])
        examined = await self._examined(mutation, updates, previous, now_us)
        self._check_steps(mutation.scope, updates, examined)
        made = tuple(_receipt(u, e) for u, e in zip(updates, examined, strict=True))
        transaction = Transaction(
            scope=mutation.scope,
            changes=tuple(_change(u, e) for u, e in zip(updates, examined, strict=True)),
            expected_version=expected,
            request=_identity(method, mutation, [*map(_content, updates, examined), *content]),
            committer=mutation.committer,
            time_us=now_us,
            receipt=receipts.to_bytes(made),
            event_of=events.rho_status(self._rules.node_id, mutation.scope),
            memories=writes,
            deadline=mutation.deadline,
            metadata=mutation.metadata,
            validate_only=mutation.validate_only,
            prune=along.prune if along else None,
            audited_as=along.audited_as if along else None,
        )
        try:
            result = await self._commits.commit(transaction, planted)
        except KindChanged as error:
            error.field = next(f"{u.field}.put.kind" for u in updates if u.key == error.key)
            raise
        if result.version is not None:
            self._measure(examined)
        told = receipts.from_bytes(result.receipt) if result.replayed else made
        return Committed(result, told)

    async def _writes(
        self, scope: Scope, memories: Sequence[SentMemory | DeleteMemory], now_us: int
    ) -> tuple[MemoryWrites | None, list[object]]:
        """What a commit writes of memories (None: nothing), and what was asked for. Raises InvalidRequest, LimitExceeded."""
        if not memories:
            return None, []
        changes, content = await sent_memories.examined(memories, "memories", self._rules.memories, now_us)
        return MemoryWrites(tuple(changes), events.memory_event(self._rules.node_id, scope, now_us)), content

    async def _announce(self, method: str, mutation: Mutation, expected: int) -> Planted | None:
        """Announces the mutation to the cache, where there is one.

        Raises VersionConflict for one that has already lost, before anything is examined, unless it is a retry.
        """
        planted = await self._commits.plant(mutation.scope, expected)
        if self._store.peek(mutation.scope) in (expected, None) and not (planted and planted.live):
            return planted
        if mutation.request_id and await self._store.remembers(mutation.scope, method, mutation.request_id):
            return None
        asking = replace(self._restoring(mutation, expected, None, 0, ()), changes=(), validate_only=True)
        await self._commits.commit(asking)
        return None

    async def _examined(
        self, mutation: Mutation, updates: Sequence[Update], previous: Mapping[str, Matrix], now_us: int
    ) -> Sequence[Admitted | None]:
        """What became of each update's matrix; None for a deletion."""
        candidates = [Candidate(u.key, f"{u.field}.put", u.put, previous.get(u.key)) for u in updates if u.put]
        admitted = iter(await self._examiner.examine(candidates, now_us=now_us, deadline=mutation.deadline))
        return [next(admitted) if u.put else None for u in updates]

    def _checked(self, mutation: Mutation) -> int:
        names.check_name(mutation.scope.namespace, "namespace")
        names.check_request_id(mutation.request_id)
        names.check_metadata(mutation.metadata, self._rules.metadata_bytes_max)
        return names.check_expected_version(mutation.expected_version)

    def _check_updates(self, updates: Sequence[Update]) -> None:
        limit = self._rules.keys_per_commit_max
        if not updates:
            raise InvalidRequest(field="updates", problem="is empty; a commit changes at least one key")
        if len(updates) > limit:
            raise LimitExceeded(limit="keys_per_commit_max", value=len(updates), maximum=limit, field="updates")
        seen: dict[str, str] = {}
        for update in updates:
            names.check_name(update.key, f"{update.field}.key")
            if update.key in seen:
                raise InvalidRequest(
                    field=f"{update.field}.key", problem=f"{update.key!r} is changed twice, first in {seen[update.key]}"
                )
            seen[update.key] = update.field
            # A NaN bound would let every step through.
            if update.max_step is not None and not update.max_step >= 0:
                raise InvalidRequest(field=f"{update.field}.max_step", problem=f"is {update.max_step}; it must be 0 or more")

    def _check_steps(self, scope: Scope, updates: Sequence[Update], examined: Sequence[Admitted | None]) -> None:
        for update, found in zip(updates, examined, strict=True):
            bound = update.max_step if update.max_step is not None else self._rules.max_step
            if found is not None and found.step is not None and bound is not None and found.step > bound:
                raise StepTooLarge(namespace=scope.namespace, key=update.key, step=found.step, bound=bound)

    def _measure(self, examined: Sequence[Admitted | None]) -> None:
        for found in examined:
            if found is not None and found.step is not None and found.matrix.kind is Kind.DENSITY:
                self._on_step(found.step)

    # ---- restore

    async def restore(self, mutation: Mutation, version: int | None) -> Restored:
        """Makes `version` (None: LAST_VALID) the newest again, as a new commit.

        Raises InvalidRequest, NotFound, VersionCompacted, RhoCorrupt, and what `Store.commit` raises.
        """
        expected = self._checked(mutation)
        if version is not None and version < 1:
            raise InvalidRequest(field="version", problem=f"is {version}; versions start at 1")
        planted = await self._announce("RestoreRho", mutation, expected)
        asked = _identity("RestoreRho", mutation, ["last_valid" if version is None else version])
        try:
            target = await self._last_valid(mutation.scope) if version is None else version
            entries = await self._whole(mutation.scope, target)
            self._check_restorable(target, entries)
        except SfmError:
            # The version may be gone since the first try succeeded: a retry still gets its first answer.
            first = await self._first_answer(mutation, asked, RestoreVersion(version or 1))
            if first is None:
                raise
            result, target, entries = first, 0, ()
        else:
            result = await self._commits.commit(self._restoring(mutation, expected, asked, target, entries), planted)
        if result.replayed:
            target, entries = receipts.restored_from_bytes(result.receipt)
        return Restored(result.number, result.commit_time_us, target, entries, result.replayed)

    def _check_restorable(self, version: int, entries: Sequence[Entry]) -> None:
        """What was let in while `observe` was on does not come back while it is off. Raises InvalidRequest."""
        wrong = [e.key for e in entries if not e.certificate.valid]
        held = ", ".join(map(repr, wrong))
        if wrong and self._rules.admission.enforcement is Enforcement.ENFORCE:
            raise InvalidRequest(
                field="version",
                problem=f"version {version} holds {held}, not valid: let in while SFM_RHO_ENFORCEMENT was observe",
            )

    def _restoring(
        self, mutation: Mutation, expected: int, asked: RequestIdentity | None, target: int, entries: tuple[Entry, ...]
    ) -> Transaction:
        now_us = _now_us()
        return Transaction(
            scope=mutation.scope,
            changes=(RestoreVersion(target),),
            expected_version=expected,
            request=asked,
            committer=mutation.committer,
            time_us=now_us,
            receipt=receipts.restored_to_bytes(target, entries),
            event_of=events.rho_status(self._rules.node_id, mutation.scope),
            deadline=mutation.deadline,
            metadata=mutation.metadata,
            validate_only=mutation.validate_only,
        )

    async def _first_answer(self, mutation: Mutation, asked: RequestIdentity | None, change: MatrixChange) -> CommitResult | None:
        """The answer to the same request before, if there was one; changes nothing."""
        if asked is None:
            return None
        look = replace(self._restoring(mutation, 0, asked, 0, ()), changes=(change,), expected_version=None, validate_only=True)
        try:
            result = await self._commits.commit(look)
        except RequestIdReused:
            raise
        except SfmError:
            return None
        return result if result.replayed else None

    async def _whole(self, scope: Scope, version: int) -> tuple[Entry, ...]:
        """What `version` holds, once its stored numbers have been read again and match their digests."""
        return (await self._store.read(scope, number=version)).version.entries

    async def _last_valid(self, scope: Scope) -> int:
        before: int | None = None
        while True:
            page = await self._store.versions(scope, before=before, limit=_LAST_VALID_PAGE)
            for version in page.versions:
                before = version.version
                if not version.valid:
                    continue
                try:
                    await self._whole(scope, version.version)
                except (RhoCorrupt, VersionCompacted):
                    continue
                return version.version
            if not page.versions:
                raise NotFound(what="valid version", namespace=scope.namespace, current=page.newest)

    # ---- history

    async def history(self, scope: Scope, page_size: int, page_token: str) -> History:
        """Kept versions, newest first. Raises InvalidRequest, NotFound, StoreUnavailable."""
        names.check_name(scope.namespace, "namespace")
        size, tokens = pages.size(page_size, self._rules.page_size_max), PageTokens("versions", scope)
        page = await self._store.versions(scope, before=_before(tokens, page_token), limit=size)
        last = page.versions[-1].version if page.versions else 0
        more = len(page.versions) == size and last > page.oldest
        return History(page, tokens.after(last) if more else "")


def _change(update: Update, found: Admitted | None) -> MatrixChange:
    if found is None:
        return DeleteMatrix(update.key)
    return PutMatrix(update.key, found.matrix, found.certificate)


def _receipt(update: Update, found: Admitted | None) -> Receipt:
    return Receipt(update.key, found.certificate if found else None, found.step if found else None)


def _content(update: Update, found: Admitted | None) -> list[object]:
    """What was asked for, in the form that two requests are compared by: the numbers by digest, in whatever form they came."""
    if found is None:
        return [update.key, "delete"]
    m = found.matrix
    return [update.key, m.kind.name, m.layout.name, m.dtype.name, m.shape, found.sent_digest.hex(), update.max_step]


def _identity(method: str, mutation: Mutation, content: Sequence[object]) -> RequestIdentity | None:
    if not mutation.request_id:
        return None
    asked = [mutation.expected_version, sorted(mutation.metadata.items()), content]
    return RequestIdentity(method, mutation.request_id, hashlib.sha256(repr(asked).encode()).digest())


def _before(tokens: PageTokens, page_token: str) -> int | None:
    place = tokens.place(page_token)
    if place is not None and not (isinstance(place, int) and 0 < place < 1 << 63):
        raise pages.not_of_this_list()
    return place


def _now_us() -> int:
    return time.time_ns() // 1000
