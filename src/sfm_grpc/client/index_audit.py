"""The vector index compared with the memories, and mended: records, and what is sent for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

from sfm.v1 import memory_store_pb2

from sfm_grpc.client.convert import believed
from sfm_grpc.client.memory_convert import sendable
from sfm_grpc.client.steps import Flow, Open, Receive, Run, Stream
from sfm_grpc.errors import UnexpectedStatus

VERIFY_INDEX = "/sfm.v1.MemoryStore/VerifyIndex"
REPAIR_INDEX = "/sfm.v1.MemoryStore/RepairIndex"
STREAMS = (VERIFY_INDEX, REPAIR_INDEX)

_Response: TypeAlias = memory_store_pb2.VerifyIndexResponse | memory_store_pb2.RepairIndexResponse


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """How far a comparison is."""

    phase: str
    """What is done at the moment."""
    done: int
    total: int
    """0: not known."""


OnProgress: TypeAlias = Callable[[IndexProgress], object] | None
"""Called with each step that is told; the asyncio client awaits it where it is a coroutine function."""


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What a comparison of the index with the memories found; of a repair, how the index is afterwards."""

    indexed_revision: int
    """The index has every write up to this one, and was compared with these."""
    memories: int
    """Memories that it should have."""
    points: int
    """Points that it has."""
    memories_hash: bytes
    """Over keys and revisions of the memories that it should have, whatever their order."""
    points_hash: bytes
    """The same over its points: equal where nothing is wrong and nothing is refused."""
    missing: int
    """Memories of which it has no point."""
    orphaned: int
    """Points of which there is no memory."""
    stale: int
    """Points of memories that were written since, which it should have noticed."""
    refused: int
    """Memories whose vectors it does not take: `describe` names them. They are no fault of the index."""
    sample_keys: tuple[str, ...]
    """Some of the keys that are missing, orphaned or stale, at most 100."""
    mended: int
    """Of a repair: how many points were put or let go of."""

    @property
    def ok(self) -> bool:
        """Nothing is missing, orphaned or stale."""
        return not (self.missing or self.orphaned or self.stale)


def verify(namespace: str, on_progress: OnProgress, timeout_s: float | None) -> Flow[IndexReport]:
    """Compares."""
    with sendable("namespace"):
        request = memory_store_pb2.VerifyIndexRequest(namespace=namespace).SerializeToString()
    return (yield from _followed(VERIFY_INDEX, request, memory_store_pb2.VerifyIndexResponse, on_progress, timeout_s))


def repair(namespace: str, *, rebuild: bool, on_progress: OnProgress, timeout_s: float | None) -> Flow[IndexReport]:
    """Compares and mends, or has all of it made anew."""
    with sendable("namespace"):
        request = memory_store_pb2.RepairIndexRequest(namespace=namespace, rebuild=rebuild).SerializeToString()
    return (yield from _followed(REPAIR_INDEX, request, memory_store_pb2.RepairIndexResponse, on_progress, timeout_s))


def _followed(
    method: str, request: bytes, kind: type[_Response], on_progress: OnProgress, timeout_s: float | None
) -> Flow[IndexReport]:
    """The report at the end of the stream. However this ends, the stream does too."""
    stream = cast(Stream, (yield Open(method, request, timeout_s)))
    try:
        while True:
            reply = cast("bytes | None", (yield Receive(stream, timeout_s)))
            if reply is None:
                raise UnexpectedStatus(status="OK", problem="the server ended the stream without a report")
            with believed(method.rpartition("/")[2]):
                told: _Response = kind.FromString(reply)
            if told.HasField("report"):
                return _report(told.report)
            if on_progress is not None and told.HasField("progress"):
                yield Run(on_progress, (IndexProgress(told.progress.phase, told.progress.done, told.progress.total),))
    finally:
        stream.cancel()


def _report(m: memory_store_pb2.IndexReport) -> IndexReport:
    return IndexReport(
        indexed_revision=m.indexed_revision,
        memories=m.memories,
        points=m.points,
        memories_hash=m.memories_hash,
        points_hash=m.points_hash,
        missing=m.missing,
        orphaned=m.orphaned,
        stale=m.stale,
        refused=m.refused,
        sample_keys=tuple(m.sample_keys),
        mended=m.mended,
    )
