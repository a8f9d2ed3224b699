"""Between the messages of ImportMemories and ExportMemories and records."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sfm.v1 import memory_store_pb2

from sfm_grpc.coordinator.exports import Chunk, ExportAsked
from sfm_grpc.coordinator.imports import Acknowledged, ImportAsked, SentLines
from sfm_grpc.errors import InvalidRequest
from sfm_grpc.model import Scope
from sfm_grpc.rpc import convert, memory_convert

_CREATE_ONLY = {
    memory_store_pb2.IMPORT_MODE_UNSPECIFIED: False,
    memory_store_pb2.IMPORT_MODE_UPSERT: False,
    memory_store_pb2.IMPORT_MODE_CREATE_ONLY: True,
}


class SentRequests:
    """The requests of an import: what the first says of all, and the lines of each."""

    def __init__(self, requests: AsyncIterator[bytes], batch_bytes_max: int) -> None:
        self._requests = requests
        self._batch_bytes_max = batch_bytes_max
        self._first: memory_store_pb2.ImportMemoriesRequest | None = None

    async def header(self) -> memory_store_pb2.ImportHeader:
        """Receives the first request. Raises InvalidRequest where it has no header, or there is none."""
        raw = await anext(self._requests, b"")
        self._first = self._parsed(raw)
        if not self._first.HasField("header"):
            raise InvalidRequest(field="header", problem="is required in the first request")
        return self._first.header

    async def lines(self) -> AsyncIterator[SentLines]:
        """The lines of each request. Raises InvalidRequest, LimitExceeded (`batch_bytes_max`)."""
        assert self._first is not None, "the header comes first"
        first, self._first = self._first, None
        yield SentLines(first.first_line, first.lines)
        del first
        async for raw in self._requests:
            request = self._parsed(raw)
            if request.HasField("header"):
                raise InvalidRequest(field="header", problem="is there again; only the first request has one")
            yield SentLines(request.first_line, request.lines)

    def _parsed(self, raw: bytes) -> memory_store_pb2.ImportMemoriesRequest:
        return convert.parsed(memory_store_pb2.ImportMemoriesRequest, raw, self._batch_bytes_max, "batch_bytes_max")


def import_of(header: memory_store_pb2.ImportHeader, scope: Scope, committer: str) -> ImportAsked:
    """What an import is of. Raises InvalidRequest."""
    if header.mode not in _CREATE_ONLY:
        raise InvalidRequest(field="header.mode", problem=f"is {header.mode}, which this server does not know")
    return ImportAsked(scope, _CREATE_ONLY[header.mode], header.validate_only, committer)


def acknowledged(told: Acknowledged) -> bytes:
    """The answer to one request of an import."""
    errors = [
        memory_store_pb2.LineError(line=e.line, key=e.key, field=e.field, reason=e.reason, problem=e.problem) for e in told.errors
    ]
    return memory_store_pb2.ImportMemoriesResponse(
        through_line=told.through_line,
        created=told.created,
        updated=told.updated,
        existing=told.existing,
        failed=told.failed,
        errors=errors,
    ).SerializeToString()


def export_of(request: memory_store_pb2.ExportMemoriesRequest, scope: Scope) -> ExportAsked:
    """What an export is of. Raises InvalidRequest."""
    chosen = memory_convert.memory_filter(request.filter, "filter")
    return ExportAsked(scope, chosen, not request.without_vectors, request.resume_token)


def exported(chunk: Chunk) -> bytes:
    """Some lines."""
    return memory_store_pb2.ExportMemoriesResponse(
        lines=chunk.lines, count=chunk.count, resume_token=chunk.resume_token, total=chunk.total
    ).SerializeToString()
