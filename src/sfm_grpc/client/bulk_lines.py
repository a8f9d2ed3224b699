"""Lines on their way to an import: whole ones, in pieces of about one size, numbered as in their file."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

_PIECE_BYTES = 2 << 20
# What a request has besides its lines, and more.
_HEAD_BYTES = 1024


@runtime_checkable
class Readable(Protocol):
    """A file."""

    def read(self, size: int, /) -> bytes | str:
        """At most so much; nothing at the end."""


LineSource: TypeAlias = Readable | Iterable[bytes | str]
"""A file, or lines one by one, with their line feeds or without."""
AsyncLineSource: TypeAlias = LineSource | AsyncIterable[bytes | str]


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole lines."""

    first_line: int
    lines: bytes
    limit: str = ""
    """What one line alone is over, of the server's or the channel's limits: it cannot be sent."""
    maximum: int = 0

    @property
    def count(self) -> int:
        """How many."""
        return self.lines.count(b"\n") + (not self.lines.endswith(b"\n"))

    def split(self, count: int) -> tuple[Piece, Piece]:
        """Its first `count` lines, and the rest."""
        place = 0
        for _ in range(count):
            place = self.lines.index(b"\n", place) + 1
        return Piece(self.first_line, self.lines[:place]), Piece(self.first_line + count, self.lines[place:])

    def fits(self, maximum: int) -> bool:
        """Whether a request of at most so many bytes can have it."""
        return len(self.lines) + _HEAD_BYTES <= maximum

    def within(self, limit: str, maximum: int) -> list[Piece]:
        """The same lines in pieces that fit into requests of at most so many bytes."""
        if self.fits(maximum):
            return [self]
        if (count := self.count) == 1:
            return [replace(self, limit=limit, maximum=maximum)]
        return [part for half in self.split(count // 2) for part in half.within(limit, maximum)]


class Pieces:
    """The pieces of a source, from a line on."""

    def __init__(self, source: AsyncLineSource, from_line: int) -> None:
        self._from_line = from_line
        self._next_line = 1
        self.piece_bytes = _PIECE_BYTES
        """About as much; one long line is a piece all the same."""
        self._blocks = _read(source, self) if isinstance(source, Readable) else _joined(source, self)

    def next(self) -> Piece | None:
        """The next piece; None: there are no more."""
        assert isinstance(self._blocks, Iterator)
        for block in self._blocks:
            if (piece := self._numbered(block)) is not None:
                return piece
        return None

    def step(self) -> object:
        """`next`, or what to await for it where the source is asynchronous."""
        return self.next() if isinstance(self._blocks, Iterator) else self._awaited(self._blocks)

    async def _awaited(self, blocks: AsyncIterator[bytes]) -> Piece | None:
        async for block in blocks:
            if (piece := self._numbered(block)) is not None:
                return piece
        return None

    def _numbered(self, block: bytes) -> Piece | None:
        piece = Piece(self._next_line, block)
        count = piece.count
        self._next_line += count
        if self._next_line <= self._from_line:
            return None
        return piece.split(self._from_line - piece.first_line)[1] if piece.first_line < self._from_line else piece


def _read(file: Readable, pieces: Pieces) -> Iterator[bytes]:
    """Blocks that end where lines do."""
    begun: list[bytes] = []
    while read := file.read(pieces.piece_bytes):
        block = _bytes(read)
        end = block.rfind(b"\n") + 1
        if end:
            yield b"".join((*begun, memoryview(block)[:end]))
            begun = [block[end:]] if end < len(block) else []
        else:
            begun.append(block)
    if begun:
        yield b"".join(begun)


def _joined(source: Iterable[bytes | str] | AsyncIterable[bytes | str], pieces: Pieces) -> Iterator[bytes] | AsyncIterator[bytes]:
    joining = _Joining(pieces)
    if isinstance(source, AsyncIterable):
        return joining.of_async(source)
    return joining.of(source)


class _Joining:
    """Lines, until they are enough for a piece."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._lines: list[bytes] = []
        self._size = 0

    def of(self, source: Iterable[bytes | str]) -> Iterator[bytes]:
        for line in source:
            if self._add(line):
                yield self._taken()
        if self._lines:
            yield self._taken()

    async def of_async(self, source: AsyncIterable[bytes | str]) -> AsyncIterator[bytes]:
        async for line in source:
            if self._add(line):
                yield self._taken()
        if self._lines:
            yield self._taken()

    def _add(self, said: bytes | str) -> bool:
        line = _bytes(said)
        self._lines.append(line if line.endswith(b"\n") else line + b"\n")
        self._size += len(line)
        return self._size >= self._pieces.piece_bytes

    def _taken(self) -> bytes:
        block, self._lines, self._size = b"".join(self._lines), [], 0
        return block


def _bytes(said: bytes | str) -> bytes:
    return said.encode() if isinstance(said, str) else said
