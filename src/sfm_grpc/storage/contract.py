"""What every engine promises. tests/contract is the same in code; an engine is one that passes it.

An engine executes transactions and answers questions about what was committed. It decides nothing: what is admissible, which
version may be read by whom and what an answer looks like is decided above it. Driver errors never leave an engine's folder:
what comes out is StoreUnavailable, or a defect.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sfm_grpc.model import Buffer, CacheSeen, CommitResult, Entry, Scope, Transaction, Version
from sfm_grpc.storage.index_contract import IndexTables
from sfm_grpc.storage.memory_contract import MemoryTables
from sfm_grpc.storage.outbox_contract import OutboxTables, StoredEvent
from sfm_grpc.storage.prune_contract import PruneTables


@dataclass(frozen=True, slots=True)
class Reading:
    """One consistent look at a namespace."""

    version: Version
    newest: int
    oldest: int
    """The oldest version that is kept."""
    numbers: Mapping[bytes, Buffer]
    """By digest: what was asked for and not had. Checked against the digest when it was read."""
    seen: CacheSeen | None = None
    """What the head's row said of its cache; None where no cache can stand between."""


@dataclass(frozen=True, slots=True)
class VersionPage:
    """A stretch of history, newest first."""

    versions: tuple[Version, ...]
    newest: int
    oldest: int


@dataclass(frozen=True, slots=True)
class Retention:
    """What housekeeping may take away. The head and the newest valid version always stay."""

    versions: int
    """How many versions are kept."""
    age_s: int
    """Older ones go too; 0: age does not matter."""
    request_age_s: int
    """How long request ids are remembered."""
    events: int
    """How many events are kept in the outbox, at least 1, whether they were sent or not."""
    events_unsent: int = 0
    """As many as this while a sink has not got them."""


class Store(Protocol):
    """The canonical store."""

    name: str
    """`sqlite` or `postgres`: what GetServerInfo says."""
    peeks: bool
    """Whether `peek` says versions at all; where it does not, that it says None is how things are, and no trouble."""

    @property
    def memories(self) -> MemoryTables:
        """The questions about memories."""

    @property
    def indexing(self) -> IndexTables:
        """How far vector indexes are."""

    @property
    def outbox(self) -> OutboxTables:
        """How far events were sent."""

    @property
    def prunes(self) -> PruneTables:
        """Plans, audits and limits."""

    async def open(self) -> None:
        """Connects, and creates or checks the schema. Nothing is open when it raises, and it may be called again.

        Raises StoreUnavailable when the store is away and may come by itself, StoreRefused (with what to do about it) when
        a person must act first.
        """

    async def close(self) -> None:
        """Finishes what is under way and lets go. Idempotent."""

    async def check(self) -> str:
        """Asks the store a question it can only answer when it can be read and written. Returns what it is.

        It waits for no other caller; a commit that holds the store's lock meanwhile is no failure. Raises StoreUnavailable.
        """

    async def commit(self, transaction: Transaction) -> CommitResult:
        """Executes a transaction: all of it or nothing, durable when this returns.

        A transaction whose `deadline` has passed before it begins → DeadlineExceeded, and nothing has happened. Then, in this
        order, so that the first thing wrong is what is told:

        1. A remembered request: the same content → its first answer (`replayed`); other content → RequestIdReused.
        2. `memories`: each change is what `storage.memories.decide` makes of it → AlreadyExists, VersionConflict, NotFound,
           InvalidRequest, QuotaExceeded. What follows is asked of a transaction that is about matrices.
        3. `expected_version` differs from the namespace's → VersionConflict. A namespace that was never committed to is at 0;
           a deletion never sets it back.
        4. RestoreVersion of a version that never was → NotFound, that is no longer kept → VersionCompacted.
        5. A key's kind is fixed by its first commit, also after it was deleted → KindChanged.
        6. More keys than a namespace may hold → LimitExceeded.
        7. `prune`: `storage.prunes` → NotFound, PrunePlanSpent, PrunePlanStale, PruneNotUndoable, PruneConfirmationRequired.
        8. `validate_only` → the result as it would have been, and nothing is changed.

        Then one version is made of all that the namespace holds after the changes, where there are any, the memories are written,
        of a prune its audit and how to undo it are kept, the request is remembered, an event is written for each that happened.
        The commit time is the transaction's, or the one before it where that is later. Only successes are remembered. Raises
        StoreUnavailable, with `outcome_unknown` when the store may have committed all the same, and Overloaded when all its
        connections are in use; so may every question.

        Where a cache may stand between (`CachedStore`) results and refusals bear what was `seen` of it: with the row locked where
        a version was made, else in one look that also saw the version that is told.
        """

    def peek(self, scope: Scope) -> int | None:
        """The namespace's version now, as `read` would find it, for callers that must not wait.

        0 when it was never committed to. None when the engine cannot say at once (it would have to wait for a network, the
        file is busy, or it is closed): then `read` must be asked.
        """

    async def newest(self, scopes: Collection[Scope]) -> Mapping[Scope, int]:
        """The versions that namespaces are at now, as one consistent look; one that does not exist is left out.

        For whoever asks for many of them again and again. Raises StoreUnavailable.
        """

    async def remembers(self, scope: Scope, method: str, request_id: str) -> bool:
        """Whether a request of this id succeeded before and is remembered. Raises StoreUnavailable."""

    async def read(
        self,
        scope: Scope,
        *,
        number: int | None = None,
        keys: Sequence[str] = (),
        have: Collection[bytes] = (),
        numbers: bool = True,
    ) -> Reading:
        """Reads a version, the newest when `number` is None, as one consistent look.

        With `numbers`, those of `keys` (none named: all) whose digests are not in `have` come along, checked against their
        digests. Raises NotFound (namespace; version above the newest), VersionCompacted, RhoCorrupt (also when the version's own
        record cannot be read), StoreUnavailable. Keys the version does not hold are left out: whether that is an error is
        decided above.
        """

    async def body(self, scope: Scope, entry: Entry, *, number: int) -> Buffer:
        """The numbers of one entry of a version, checked against its certificate's digest, and nothing else.

        For a caller that has the entries and wants their numbers one after the other. Raises VersionCompacted (the version went
        meanwhile), RhoCorrupt, StoreUnavailable.
        """

    async def versions(self, scope: Scope, *, before: int | None, limit: int) -> VersionPage:
        """The kept versions below `before` (None: from the newest), newest first, at most `limit`.

        One whose record is damaged is listed as what it is: `unreadable`, and not valid.

        Raises NotFound (namespace), StoreUnavailable.
        """

    async def heads(self, *, after: Scope | None, limit: int) -> Sequence[tuple[Scope, Version]]:
        """The newest version of each namespace, ordered by tenant and name, those after `after`.

        A head whose record is damaged or lost comes as `unreadable`; it keeps nobody from the others. Raises StoreUnavailable.
        """

    async def compact(self, scope: Scope, retention: Retention, now_us: int) -> int:
        """Takes away a few of the versions that `retention` no longer keeps, oldest first; returns how many.

        A short transaction, so that commits hardly wait: call it again until it returns 0. Raises StoreUnavailable.
        """

    async def forget(self, retention: Retention, now_us: int) -> int:
        """Takes away a few requests and events that `retention` no longer keeps; returns how many. Raises StoreUnavailable."""

    async def events(self, *, after: int, limit: int) -> Sequence[StoredEvent]:
        """The outbox after an event id, oldest first, in the order of the commits of each namespace.

        Nothing appears later among what was told: a transaction that is under way ends the list. Raises StoreUnavailable.
        """


class CachedStore(Store, Protocol):
    """A store beyond a network, before which a cache may stand. Whether it may is written in the head's row: see docs/adr/0007.

    Each change says what the row is afterwards, whoever made it so. All raise StoreUnavailable, and NotFound without a head.
    """

    identity: str
    """Tells this store and its history from every other: another database, a copy that went its own way. Known once it is open;
    changes where a standby takes over."""

    async def cache_seen(self, scope: Scope) -> CacheSeen:
        """The row as it is."""

    async def caches_seen(self, scopes: Collection[Scope]) -> Mapping[Scope, CacheSeen]:
        """The rows of many; one that does not exist is left out."""

    async def cache_on(self, scope: Scope, name: str) -> CacheSeen:
        """Registers a cache, where the namespace is drained and not held; waits for the commits that are under way."""

    async def cache_off(self, scope: Scope) -> CacheSeen:
        """Where it is on: nothing is filled any more by who looks from now on."""

    async def cache_drained(self, scope: Scope, epoch: int) -> CacheSeen:
        """Where it is off since this epoch: the last lease has run out, says the caller."""

    async def cache_hold(self, tenant: str, namespace: str, *, held: bool) -> int:
        """A person's word on one namespace of the tenant, or ("") all of them; how many there are."""

    async def caches(self, tenant: str, *, after: str, limit: int) -> Sequence[tuple[str, CacheSeen]]:
        """The namespaces of a tenant after `after`, by name."""
