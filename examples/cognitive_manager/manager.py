"""The cognitive manager: reads ρ, thinks, commits; and comes to the same end whatever other writers and outages do to it.

Its only state is in the store. Each commit moves ρ, the Frequent-Directions sketch and the ledger of batches together, so that a
manager that was interrupted anywhere goes on exactly where the store says it was.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from examples.cognitive_manager import density_trail, frequent_directions, ledger
from examples.cognitive_manager.ledger import Share
from examples.cognitive_manager.memories import FloatArray, Memories
from examples.cognitive_manager.recall import recall
from examples.cognitive_manager.tally import Acknowledged, Tally
from sfm_grpc.client import (
    Commit,
    DeadlineExceeded,
    Draining,
    Namespace,
    NotFound,
    Overloaded,
    SfmError,
    Snapshot,
    StoreUnavailable,
    Unreachable,
    VersionConflict,
)

RHO, SKETCH, LEDGER = "rho", "fd_sketch", "applied"

# The same call may succeed a little later. Of a commit they leave unknown whether it happened.
_PASSING = (Unreachable, StoreUnavailable, Draining, DeadlineExceeded, Overloaded)
_PATIENCE_S = 120.0
_PAUSE_S = 0.1
_BACKOFF_S, _BACKOFF_MAX_S = 0.01, 0.25

T = TypeVar("T")


class ForeignNamespaceError(Exception):
    """The namespace holds something that is not this stream's."""


@dataclass(frozen=True, slots=True)
class State:
    """All that the manager remembers, as of one version."""

    base: int | Snapshot
    """What the next commit expects to be the newest version; 0: there is none yet."""
    version: int
    rho: FloatArray
    sketch: FloatArray
    ledger: FloatArray


def state_in(snapshot: Snapshot, memories: Memories) -> State:
    """What the store remembers. Raises ForeignNamespaceError when that is not of this stream."""
    d = memories.dimension
    expected = {RHO: (d, d), SKETCH: (frequent_directions.SKETCH_ROWS, d), LEDGER: (1, memories.batches)}
    shapes = {key: snapshot[key].shape for key in expected if key in snapshot}
    if shapes != expected:
        raise ForeignNamespaceError(
            f"namespace {snapshot.namespace!r} holds {shapes or 'nothing of it'} where this stream has {expected}; choose another"
        )
    return State(snapshot, snapshot.version, snapshot[RHO], snapshot[SKETCH], snapshot[LEDGER])


class Manager:
    """Follows its share of the stream, recalling as it goes."""

    def __init__(
        self,
        namespace: Namespace,
        memories: Memories,
        *,
        name: str,
        share: Share,
        batches: int,
        recalls: int = 3,
        seed: int = 0,
        pause_s: float = 0.0,
        on_commit: Callable[[Acknowledged], None] = lambda _: None,
    ) -> None:
        """`batches`: how many of the stream's to take in all, `recalls`: how many after each commit, `seed`: of what.

        `pause_s`: how long to do nothing after each batch.
        """
        self._namespace = namespace
        self._memories = memories
        self._name = name
        self._share = share
        self._batches = batches
        self._recalls = recalls
        self._random = random.Random(f"{seed} {share}")
        self._pause_s = pause_s
        self._on_commit = on_commit
        self.tally = Tally()

    def run(self) -> None:
        """Takes every batch of the share that is left, then ends."""
        for batch in ledger.left(self._state().ledger, self._share, self._batches):
            self._take(batch)
            for _ in range(self._recalls):
                rho = self._read(RHO)[RHO]
                recall(self._memories, rho, self._random.randrange(len(self._memories.names)))
                self.tally.recalls += 1
            time.sleep(self._pause_s)

    # ---- one batch, exactly once

    def _take(self, batch: int) -> None:
        """The loop inside the client's `update(fn)`, opened up: it owns the request id, to ask again after an outage."""
        attempt = 0
        while not ledger.taken((state := self._state()).ledger, batch):
            try:
                commit = self._commit(state, batch)
            except VersionConflict:
                attempt += 1
                self.tally.conflicts += 1
                time.sleep(self._random.uniform(0, min(_BACKOFF_MAX_S, _BACKOFF_S * 2**attempt)))
                continue
            self._acknowledged(commit, batch)
            return

    def _commit(self, state: State, batch: int) -> Commit:
        """Commits what comes of the batch in this state. Asking again with the same request id is the same commit."""
        rows = self._memories.rows(batch)
        vectors = self._memories.batch(batch)
        changes = {
            RHO: density_trail.follow(state.rho, vectors),
            SKETCH: frequent_directions.absorb(state.sketch, vectors),
            LEDGER: ledger.with_taken(state.ledger, batch, state.version + 1),
        }
        metadata = {"batch": str(batch), "rows": f"{rows.start}-{rows.stop - 1}", "by": self._name, "share": str(self._share)}
        request_id = uuid.uuid4().hex

        def commit() -> Commit:
            began = time.perf_counter()
            done = self._namespace.commit(
                changes,
                expected_version=state.base,
                metadata=metadata,
                request_id=request_id,
                max_step={RHO: density_trail.STEP_MAX},
            )
            self.tally.commit_s.append(time.perf_counter() - began)
            return done

        done = self._patiently(commit)
        self.tally.bytes_committed += sum(array.nbytes for array in changes.values())
        return done

    def _acknowledged(self, commit: Commit, batch: int) -> None:
        receipt = commit.receipts[RHO]
        self.tally.commits += 1
        self.tally.replayed += commit.replayed
        self.tally.clamped += receipt.clamped
        self._on_commit(Acknowledged(commit.version, batch, receipt.digest.hex(), commit.replayed))

    # ---- reads

    def _state(self) -> State:
        """The newest of everything, or the beginning of all. Raises ForeignNamespaceError."""
        try:
            return state_in(self._read(), self._memories)
        except NotFound:
            d, batches = self._memories.dimension, self._memories.batches
            return State(0, 0, density_trail.start(d), frequent_directions.start(d), ledger.start(batches))

    def _read(self, keys: str | None = None) -> Snapshot:
        def read() -> Snapshot:
            began = time.perf_counter()
            snapshot = self._namespace.read(keys)
            self.tally.read_s.append(time.perf_counter() - began)
            return snapshot

        snapshot = self._patiently(read)
        self.tally.reads += 1
        self.tally.reads_unmoved += not snapshot.modified
        return snapshot

    def _patiently(self, call: Callable[[], T]) -> T:
        """Makes the call again until it is answered, for two minutes: a server that restarts is back in a second or two."""
        patience_ends = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return call()
            except _PASSING as error:
                self.tally.outages += 1
                if time.monotonic() > patience_ends:
                    raise
                time.sleep(_pause_s(error))


def _pause_s(error: SfmError) -> float:
    """What the server asks for, if it could."""
    return error.retry_delay_s or _PAUSE_S
