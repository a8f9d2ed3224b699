"""Importing memories: batches of lines, one examined on a thread while the one before is committed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice

from sfm_grpc.coordinator import events, memory_lines, names, sent_memories
from sfm_grpc.coordinator.bulk import BulkStreams
from sfm_grpc.coordinator.commit import CommitPath
from sfm_grpc.coordinator.memory_lines import LineError
from sfm_grpc.coordinator.sent_memories import MemoryBounds
from sfm_grpc.errors import InvalidRequest, LimitExceeded
from sfm_grpc.metrics import Metrics
from sfm_grpc.model import MemoryReceipt, MemoryWrites, Outcome, PutMemory, Scope, Space, Transaction
from sfm_grpc.storage.contract import Store
from sfm_grpc.storage.memories import EMPTY, check_vector

_ERRORS_TOLD = 100
_LINE_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class ImportAsked:
    """What an import is of."""

    scope: Scope
    create_only: bool
    """Lines whose keys live are left alone."""
    validate_only: bool
    committer: str


@dataclass(frozen=True, slots=True)
class SentLines:
    """The lines of one request."""

    first_line: int
    """The number of the first; 0: the one after the request before."""
    lines: bytes


@dataclass(slots=True)
class Acknowledged:
    """What became of the lines of one request."""

    through_line: int = 0
    created: int = 0
    updated: int = 0
    existing: int = 0
    failed: int = 0
    errors: list[LineError] = field(default_factory=list)
    """Of the first so many that failed, in the order of the lines."""

    def refuse(self, error: LineError) -> None:
        """Counts a line that failed."""
        self.failed += 1
        if len(self.errors) < _ERRORS_TOLD or error < self.errors[-1]:
            self.errors.append(error)
            self.errors.sort()
            del self.errors[_ERRORS_TOLD:]

    def count(self, receipts: Sequence[MemoryReceipt]) -> None:
        """Counts lines that are done."""
        outcomes = [r.outcome for r in receipts]
        self.created += outcomes.count(Outcome.CREATED)
        self.updated += outcomes.count(Outcome.UPDATED)
        self.existing += outcomes.count(Outcome.UNCHANGED)


class Imports:
    """Imports, all by the one write path."""

    def __init__(
        self,
        store: Store,
        commits: CommitPath,
        streams: BulkStreams,
        bounds: MemoryBounds,
        metrics: Metrics,
        *,
        transaction_s: float,
        node_id: str,
    ) -> None:
        """`transaction_s`: how long one transaction may wait until it begins."""
        self._store = store
        self._commits = commits
        self._streams = streams
        self._bounds = bounds
        self._counted = {name: metrics.imported_lines.labels(name) for name in ("created", "updated", "existing", "failed")}
        self._transaction_s = transaction_s
        self._node_id = node_id

    async def take(self, asked: ImportAsked, requests: AsyncIterator[SentLines]) -> AsyncGenerator[Acknowledged, None]:
        """Imports what is sent, an acknowledgement for each request that has lines; close it, or it counts as a stream for ever.

        Raises InvalidRequest (the namespace's name, `first_line`), Overloaded, DeadlineExceeded, StoreUnavailable.
        """
        names.check_name(asked.scope.namespace, "namespace")
        with self._streams.one():
            batches = _Batches(requests, asked, self._bounds, lambda: self._space(asked.scope))
            ahead = asyncio.create_task(batches.next())
            try:
                while (batch := await ahead) is not None:
                    ahead = asyncio.create_task(batches.next())
                    for puts in batch.transactions:
                        await self._record(asked, puts, batches, batch.told)
                    if batch.ends_request:
                        self._count(batch.told)
                        yield batch.told
            finally:
                ahead.cancel()

    async def _space(self, scope: Scope) -> Space:
        return await self._store.memories.space(scope) or EMPTY

    async def _record(self, asked: ImportAsked, puts: Sequence[PutMemory], batches: _Batches, told: Acknowledged) -> None:
        """Commits what can be: where another writer fixed the dimension meanwhile, lines that were right are refused."""
        while puts:
            try:
                result = await self._commits.commit(self._transaction(asked, puts))
            except InvalidRequest as error:
                refused = next((p for p in puts if error.field.startswith(f"{p.field}.")), None)
                if refused is None:
                    raise
                told.refuse(memory_lines.refused(error, refused.key))
                await batches.look()
                puts = [p for p in puts if p is not refused and batches.fits(p, told)]
            else:
                told.count(result.memories)
                return

    def _transaction(self, asked: ImportAsked, puts: Sequence[PutMemory]) -> Transaction:
        now_us = _now_us()
        return Transaction.of_memories(
            asked.scope,
            MemoryWrites(tuple(puts), events.memory_event(self._node_id, asked.scope, now_us)),
            now_us,
            committer=asked.committer,
            deadline=time.monotonic() + self._transaction_s,
            validate_only=asked.validate_only,
        )

    def _count(self, told: Acknowledged) -> None:
        for name, counter in self._counted.items():
            counter.inc(getattr(told, name))


@dataclass(frozen=True, slots=True)
class _Batch:
    """Lines that were examined."""

    transactions: Sequence[Sequence[PutMemory]]
    """What is to be put, in the order of the lines, each key once in each."""
    told: Acknowledged
    """Of its request, so far."""
    ends_request: bool


class _Batches:
    """The lines of a stream of requests, at most `batch_max` at a time."""

    def __init__(
        self,
        requests: AsyncIterator[SentLines],
        asked: ImportAsked,
        bounds: MemoryBounds,
        find_space: Callable[[], Awaitable[Space]],
    ) -> None:
        self._requests = requests
        self._asked = asked
        self._bounds = bounds
        self._find_space = find_space
        self._space = EMPTY
        """The namespace as it will be: what its vectors must be like."""
        self._reader = BytesIO()
        self._size = 0
        self._told = Acknowledged()

    async def next(self) -> _Batch | None:
        """The next lines, examined; None: there are no more. Raises InvalidRequest (`first_line`), and as the requests do."""
        while self._reader.tell() >= self._size:
            request = await anext(self._requests, None)
            if request is None:
                return None
            self._begin(request)
        if not self._space.dimension:
            await self.look()
        return await asyncio.to_thread(self._examine)

    async def look(self) -> None:
        """Learns what vectors must be like, from the store."""
        self._space = await self._find_space()

    def _begin(self, request: SentLines) -> None:
        before = self._told.through_line
        first = request.first_line or before + 1
        if not before < first < _LINE_MAX:
            raise InvalidRequest(field="first_line", problem=f"is {first}; it must be beyond {before}, the last line before")
        self._reader, self._size = BytesIO(request.lines), len(request.lines)
        self._told = Acknowledged(through_line=first - 1)

    def _examine(self) -> _Batch:
        told, now_us = self._told, _now_us()
        puts = []
        for text in islice(self._reader, self._bounds.batch_max):
            told.through_line += 1
            if text.isspace():
                continue
            try:
                sent = memory_lines.read(text, told.through_line, self._bounds)
                put = sent_memories.checked(sent, self._bounds, now_us, if_absent=self._asked.create_only)
                self._check_vector(put)
            except (InvalidRequest, LimitExceeded) as error:
                told.refuse(memory_lines.refusal(error, text))
            else:
                puts.append(put)
        return _Batch(list(_each_key_once(puts)), told, self._reader.tell() >= self._size)

    def fits(self, put: PutMemory, told: Acknowledged) -> bool:
        """Whether the namespace takes its vector; `told` where not."""
        try:
            self._check_vector(put)
        except InvalidRequest as error:
            told.refuse(memory_lines.refused(error, put.key))
            return False
        return True

    def _check_vector(self, put: PutMemory) -> None:
        if put.vector is not None:
            self._space = check_vector(put, put.vector, self._asked.scope, self._space)


def _each_key_once(puts: Sequence[PutMemory]) -> Iterator[Sequence[PutMemory]]:
    """The puts in their order, a new part wherever a key comes again."""
    begun, seen = 0, set[str]()
    for place, put in enumerate(puts):
        if put.key in seen:
            yield puts[begun:place]
            begun, seen = place, set()
        seen.add(put.key)
    if begun < len(puts):
        yield puts[begun:]


def _now_us() -> int:
    return time.time_ns() // 1000
