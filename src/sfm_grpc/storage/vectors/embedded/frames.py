"""What goes between us and an engine's process, and into a generation's tail: frames of words (JSON) and numbers (bytes)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from sfm_grpc.model import Buffer

Words: TypeAlias = dict[str, Any]

QUESTIONS = frozenset(("search", "count", "scan", "look"))
"""What changes nothing."""

BROKEN = "Service runtime error"
"""How the engine's errors begin where it is neither what it was asked, nor who asked, that is to blame."""

HEAD = struct.Struct("<QII")
"""Which question or answer it is of, how many bytes of words follow, and how many of numbers."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One question or its answer."""

    number: int
    words: Words
    numbers: Buffer | bytearray = b""

    def packed(self) -> bytes:
        """As bytes."""
        words = orjson.dumps(self.words)
        return b"".join((HEAD.pack(self.number, len(words), len(self.numbers)), words, self.numbers))


def take(read: Callable[[int], bytes | bytearray]) -> Frame | None:
    """The next one; `read` gives as many bytes as it is asked for, or fewer at the end. None: the end, maybe amid a frame."""
    head = read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    number, *sizes = HEAD.unpack(head)
    words, numbers = map(read, sizes)
    if [len(words), len(numbers)] != sizes:
        return None
    return Frame(number, orjson.loads(words), numbers)
