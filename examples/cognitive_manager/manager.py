"""The cognitive manager: reads ρ, thinks, commits; and comes to the same end whatever other writers and outages do to it.

Its only state is in the store. Each commit moves ρ, the Frequent-Directions sketch and the ledger of batches together with the
memories that they came from, so that a manager that was interrupted anywhere goes on exactly where the store says it was.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable

from examples.cognitive_manager import density_trail, frequent_directions, ledger
from examples.cognitive_manager.ledger import Share
from examples.cognitive_manager.patience import patiently
from examples.cognitive_manager.recall import SHORTLIST, Recalled, recall
from examples.cognitive_manager.state import LEDGER, RHO, SKETCH, State, beginning, state_in
from examples.cognitive_manager.stream import FloatArray, Stream
from examples.cognitive_manager.tally import Acknowledged, Tally
from sfm_grpc.client import Commit, IndexUnavailable, Namespace, NotFound, SearchResult, Snapshot, VersionConflict

_BACKOFF_S, _BACKOFF_MAX_S = 0.01, 0.25
# Without an index there is no recall, and everything else goes on; it is asked again after a while.
_WITHOUT_INDEX_S = 5.0


class Manager:
    """Follows its share of the stream, recalling as it goes."""

    def __init__(
        self,
        namespace: Namespace,
        stream: Stream,
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
        self._stream = stream
        self._name = name
        self._share = share
        self._batches = batches
        self._recalls = recalls
        self._random = random.Random(f"{seed} {share}")
        self._pause_s = pause_s
        self._on_commit = on_commit
        self._search_from_s = 0.0
        self.tally = Tally()

    def run(self) -> None:
        """Takes every batch of the share that is left, then ends."""
        for batch in ledger.left(self._state().ledger, self._share, self._batches):
            self._take(batch)
            for _ in range(self._recalls):
                self._recall(self._random.randrange(len(self._stream.names)))
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
        rows = self._stream.rows(batch)
        vectors = self._stream.batch(batch)
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
                memories=self._stream.memories(batch),
                metadata=metadata,
                request_id=request_id,
                max_step={RHO: density_trail.STEP_MAX},
            )
            self.tally.commit_s.append(time.perf_counter() - began)
            return done

        done = patiently(commit, self.tally.unanswered)
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
            return state_in(self._read(), self._stream)
        except NotFound:
            return beginning(self._stream)

    def _read(self, keys: str | None = None) -> Snapshot:
        def read() -> Snapshot:
            began = time.perf_counter()
            snapshot = self._namespace.read(keys)
            self.tally.read_s.append(time.perf_counter() - began)
            return snapshot

        snapshot = patiently(read, self.tally.unanswered)
        self.tally.reads += 1
        self.tally.reads_unmoved += not snapshot.modified
        return snapshot

    # ---- recall

    def _recall(self, row: int) -> list[Recalled]:
        """What comes to mind at a row of the stream: the memories near to it, weighed with ρ as it is now."""
        rho = self._read(RHO)[RHO]
        near = self._search(self._stream.vectors[row])
        return [] if near is None else recall(near, rho, but=self._stream.names[row])

    def _search(self, vector: FloatArray) -> SearchResult | None:
        """The memories that are nearest; None while there is no index."""
        if time.monotonic() < self._search_from_s:
            return None

        def search() -> SearchResult:
            began = time.perf_counter()
            found = self._namespace.memories.search(vector, SHORTLIST, with_vectors=True)
            self.tally.search_s.append(time.perf_counter() - began)
            return found

        try:
            found = patiently(search, self.tally.unanswered)
        except IndexUnavailable:
            self.tally.without_index += 1
            self._search_from_s = time.monotonic() + _WITHOUT_INDEX_S
            return None
        self.tally.searches += 1
        return found
