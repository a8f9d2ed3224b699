"""All that the manager remembers beside its memories: the matrices of its namespace, as of one version."""

from __future__ import annotations

from dataclasses import dataclass

from examples.cognitive_manager import density_trail, frequent_directions, ledger
from examples.cognitive_manager.stream import FloatArray, Stream
from sfm_grpc.client import Snapshot

RHO, SKETCH, LEDGER = "rho", "fd_sketch", "applied"


class ForeignNamespaceError(Exception):
    """The namespace holds something that is not this stream's."""


@dataclass(frozen=True, slots=True)
class State:
    """ρ, the sketch and the ledger of one version."""

    base: int | Snapshot
    """What the next commit expects to be the newest version; 0: there is none yet."""
    version: int
    rho: FloatArray
    sketch: FloatArray
    ledger: FloatArray


def state_in(snapshot: Snapshot, stream: Stream) -> State:
    """What the store remembers. Raises ForeignNamespaceError when that is not of this stream."""
    d = stream.dimension
    expected = {RHO: (d, d), SKETCH: (frequent_directions.SKETCH_ROWS, d), LEDGER: (1, stream.batches)}
    shapes = {key: snapshot[key].shape for key in expected if key in snapshot}
    if shapes != expected:
        raise ForeignNamespaceError(
            f"namespace {snapshot.namespace!r} holds {shapes or 'nothing of it'} where this stream has {expected}; choose another"
        )
    return State(snapshot, snapshot.version, snapshot[RHO], snapshot[SKETCH], snapshot[LEDGER])


def beginning(stream: Stream) -> State:
    """Before the first commit."""
    d = stream.dimension
    return State(0, 0, density_trail.start(d), frequent_directions.start(d), ledger.start(stream.batches))
