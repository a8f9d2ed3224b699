"""Importing and exporting memories as JSON Lines: written once, as flows. Nothing here waits or knows gRPC."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict, Unpack, cast

from sfm.v1 import memory_store_pb2

from sfm_grpc.client.bulk_lines import AsyncLineSource, Piece, Pieces
from sfm_grpc.client.convert import believed
from sfm_grpc.client.memory_convert import exporting_of, sendable
from sfm_grpc.client.memory_records import FilterOptions
from sfm_grpc.client.steps import Converse, Flow, Open, Pause, Receive, Run, Send, Stream
from sfm_grpc.errors import DeadlineExceeded, InvalidRequest, LimitExceeded, SfmError, UnexpectedStatus, Unreachable

IMPORT_MEMORIES = "/sfm.v1.MemoryStore/ImportMemories"
EXPORT_MEMORIES = "/sfm.v1.MemoryStore/ExportMemories"
CONVERSATIONS = (IMPORT_MEMORIES,)
STREAMS = (EXPORT_MEMORIES,)

ImportMode: TypeAlias = Literal["upsert", "create_only"]
_MODES = {
    "upsert": memory_store_pb2.IMPORT_MODE_UPSERT,
    "create_only": memory_store_pb2.IMPORT_MODE_CREATE_ONLY,
}

# Requests on their way: the server examines one while it commits the one before.
_AHEAD = 4
_ERRORS_KEPT = 1_000
_BACKOFF_S, _BACKOFF_MAX_S = 0.05, 2.0

RETRY_S = 30.0
# Where no server was there at all: as long as other calls try.
_FIRST_S = 2.0


@dataclass(frozen=True, slots=True)
class LineError:
    """Why a line was refused."""

    line: int
    key: str
    """As far as it could be read."""
    field: str
    """Of the line; "": the line as a whole."""
    reason: str
    """What a put would be refused with: `INVALID_REQUEST`, `LIMIT_EXCEEDED`."""
    problem: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of the lines so far."""

    through_line: int
    """All lines up to this one are decided, and what was accepted of them is durable."""
    created: int = 0
    updated: int = 0
    """Lines whose key lived. Of lines that had to be sent again some may be here that had created it."""
    existing: int = 0
    """Under `create_only`: lines whose key lived, and was left alone."""
    failed: int = 0
    """Lines that were refused."""
    errors: tuple[LineError, ...] = ()
    """Why: of the first 100 of each request, 1000 in all."""


@dataclass(frozen=True, slots=True)
class ExportProgress:
    """How far an export is."""

    lines: int
    total: int
    """About how many there are in all; 0: a filter leaves that open."""


class ImportOptions(TypedDict, total=False):
    """What an import takes, with its defaults; as `Memories.import_lines` says."""

    mode: ImportMode
    from_line: int
    validate_only: bool
    on_progress: Callable[[ImportReport], object] | None
    retry_s: float


class _Patience:
    """Whether it is worth trying again, and when."""

    def __init__(self, retry_s: float) -> None:
        self._retry_s = retry_s
        self._lasts_s = min(retry_s, _FIRST_S)
        self._failures = 0
        self._heard_s = time.monotonic()

    def heard(self) -> None:
        """The server is there."""
        self._failures, self._heard_s, self._lasts_s = 0, time.monotonic(), self._retry_s

    def after(self, error: SfmError) -> Flow[None]:
        """Lets time pass. Raises the error where time will not mend it, or it has lasted too long."""
        mends = error.retry_delay_s is not None or isinstance(error, (Unreachable, DeadlineExceeded))
        if not mends or time.monotonic() - self._heard_s > self._lasts_s:
            raise error
        self._failures += 1
        spread_s = min(_BACKOFF_MAX_S, _BACKOFF_S * 2.0 ** min(self._failures, 10))
        yield Pause((error.retry_delay_s or 0.0) + random.uniform(0, spread_s))  # noqa: S311  no secret


class Importing:
    """One import, over as many streams as it takes."""

    def __init__(
        self,
        namespace: str,
        source: AsyncLineSource,
        *,
        mode: ImportMode = "upsert",
        from_line: int = 1,
        validate_only: bool = False,
        on_progress: Callable[[ImportReport], object] | None = None,
        retry_s: float = RETRY_S,
    ) -> None:
        """Raises InvalidRequest."""
        if mode not in _MODES:
            raise InvalidRequest(field="mode", problem=f"{mode!r} is none of {', '.join(_MODES)}")
        if from_line < 1:
            raise InvalidRequest(field="from_line", problem=f"is {from_line}; lines are numbered from 1")
        with sendable("namespace"):
            self._header = memory_store_pb2.ImportHeader(namespace=namespace, mode=_MODES[mode], validate_only=validate_only)
        self._pieces = Pieces(source, from_line)
        self._on_progress = on_progress
        self._patience = _Patience(retry_s)
        self._unanswered: list[Piece] = []
        """What was read, in its order, and is to be sent again where its answer does not come."""
        self._report = ImportReport(from_line - 1)

    def run(self) -> Flow[ImportReport]:
        """Imports all. An error says up to which line that went well."""
        while True:
            try:
                yield from self._converse()
            except SfmError as error:
                try:
                    if not self._made_smaller(error):
                        yield from self._patience.after(error)
                except SfmError:
                    line = self._report.through_line
                    error.add_note(f"Up to line {line} everything is imported; from_line={line + 1} goes on.")
                    raise
            else:
                return self._report

    def _converse(self) -> Flow[None]:
        """Sends what is left, on one stream."""
        stream = cast(Stream, (yield Converse(IMPORT_MEMORIES)))
        try:
            header: memory_store_pb2.ImportHeader | None = self._header
            sent = 0
            while True:
                while sent < _AHEAD and (piece := (yield from self._piece(sent))) is not None:
                    if piece.limit:
                        if sent:
                            break
                        yield from self._refused(piece)
                        continue
                    yield Send(stream, _request(header, piece))
                    header, sent = None, sent + 1
                if header is not None:
                    yield Send(stream, _request(header, None))
                    header = None
                if not sent:
                    yield Send(stream, None)
                reply = cast("bytes | None", (yield Receive(stream, None)))
                if reply is None:
                    break
                yield from self._answered(reply)
                sent -= 1
            if self._unanswered:
                raise UnexpectedStatus(status="OK", problem="the server ended the stream")
        finally:
            stream.cancel()

    def _piece(self, place: int) -> Flow[Piece | None]:
        """What is to be sent after `place` others; None: that was all."""
        if place == len(self._unanswered):
            piece = cast("Piece | None", (yield Run(self._pieces.step, ())))
            if piece is None:
                return None
            self._unanswered.append(piece)
        return self._unanswered[place]

    def _answered(self, reply: bytes) -> Flow[None]:
        with believed("ImportMemories"):
            told = memory_store_pb2.ImportMemoriesResponse.FromString(reply)
            del self._unanswered[0]
        self._patience.heard()
        errors = [LineError(e.line, e.key, e.field, e.reason, e.problem) for e in told.errors]
        yield from self._progress(
            ImportReport(told.through_line, told.created, told.updated, told.existing, told.failed, tuple(errors))
        )

    def _refused(self, piece: Piece) -> Flow[None]:
        """Counts a line that cannot even be sent."""
        del self._unanswered[0]
        too_large = LimitExceeded(limit=piece.limit, value=len(piece.lines), maximum=piece.maximum)
        error = LineError(piece.first_line, "", "", too_large.reason, too_large.sentence())
        yield from self._progress(ImportReport(piece.first_line, failed=1, errors=(error,)))

    def _progress(self, of_piece: ImportReport) -> Flow[None]:
        so_far = self._report
        self._report = ImportReport(
            of_piece.through_line,
            so_far.created + of_piece.created,
            so_far.updated + of_piece.updated,
            so_far.existing + of_piece.existing,
            so_far.failed + of_piece.failed,
            (so_far.errors + of_piece.errors)[:_ERRORS_KEPT],
        )
        if self._on_progress is not None:
            yield Run(self._on_progress, (self._report,))

    def _made_smaller(self, error: SfmError) -> bool:
        """Whether a piece was too large for the server and is not any more; a line that is too large by itself is refused."""
        if not isinstance(error, LimitExceeded) or error.limit not in ("batch_bytes_max", "message_bytes_max"):
            return False
        place = next((n for n, piece in enumerate(self._unanswered) if not piece.fits(error.maximum)), None)
        if place is None:
            return False
        self._pieces.piece_bytes = max(1, min(self._pieces.piece_bytes, error.maximum // 2))
        self._unanswered[place : place + 1] = self._unanswered[place].within(error.limit, error.maximum)
        return True


def _request(header: memory_store_pb2.ImportHeader | None, piece: Piece | None) -> bytes:
    request = memory_store_pb2.ImportMemoriesRequest(header=header)
    if piece is not None:
        request.lines, request.first_line = piece.lines, piece.first_line
    return request.SerializeToString()


class Exporting:
    """One export, over as many streams as it takes. Its flows are performed one after the other."""

    def __init__(
        self,
        namespace: str,
        *,
        with_vectors: bool,
        on_progress: Callable[[ExportProgress], object] | None,
        retry_s: float,
        **options: Unpack[FilterOptions],
    ) -> None:
        """Raises InvalidRequest."""
        self._request = exporting_of(namespace, options, with_vectors=with_vectors)
        self._on_progress = on_progress
        self._patience = _Patience(retry_s)
        self._stream: Stream | None = None
        self._lines = 0

    def next(self) -> Flow[list[bytes]]:
        """The next lines; none: that was all."""
        while True:
            try:
                return (yield from self._receive())
            except SfmError as error:
                self.cancel()
                yield from self._patience.after(error)

    def _receive(self) -> Flow[list[bytes]]:
        if self._stream is None:
            self._stream = cast(Stream, (yield Open(EXPORT_MEMORIES, self._request.SerializeToString(), None)))
        reply = cast("bytes | None", (yield Receive(self._stream, None)))
        if reply is None:
            return []
        with believed("ExportMemories"):
            told = memory_store_pb2.ExportMemoriesResponse.FromString(reply)
        self._patience.heard()
        self._request.resume_token = told.resume_token
        self._lines += told.count
        if self._on_progress is not None:
            yield Run(self._on_progress, (ExportProgress(self._lines, told.total),))
        return told.lines.splitlines(keepends=True)

    def cancel(self) -> None:
        """Ends the stream, if there is one."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
