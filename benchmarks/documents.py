"""What the memory benchmarks put: the documented objects of the standard library, and as many vectors like theirs as are wanted.

The names and their all-MiniLM-L6-v2 vectors are those of examples/cognitive_manager; the texts are on every machine.

A large set is made of the real vectors: each is one of them plus noise that has their covariance, at length one again. So it
fills the same few directions as sentences do, and is as crowded as many of them are: of 100 000, the nearest to another such
vector has a cosine of 0.83 and the tenth 0.79 (medians; of the 2019 real ones, 0.70 and 0.48). Types and importances are drawn.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import warnings
from collections.abc import Sequence
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from examples.cognitive_manager.stream import Stream
from sfm_grpc.client import MemoryPut

Vectors = npt.NDArray[np.float32]
Payload = dict[str, object]

PAYLOAD_BYTES = 900
DIMENSION = 384
TYPES = ("member", "object", "module")
_TYPES_SHARE = (0.40, 0.54, 0.06)  # of the real ones
_NOISE = 0.6


def payloads(count: int) -> list[Payload]:
    """`count` JSON objects of about PAYLOAD_BYTES, no two the same."""
    objects = _objects()
    return [_payload(i, *objects[i % len(objects)]) for i in range(count)]


def _payload(place: int, name: str, text: str) -> Payload:
    said: Payload = {"name": name, "edition": place, "tags": name.split("."), "source": "stdlib", "text": ""}
    rest = PAYLOAD_BYTES - len(json.dumps(said))
    return said | {"text": (text * (1 + rest // max(1, len(text))))[:rest]}


@functools.cache
def _objects() -> Sequence[tuple[str, str]]:
    """Names and what is documented of them, and of what follows in the list."""
    names = Stream.load().names
    texts = [_documentation(name) for name in names]
    return [(name, " ".join(texts[i : i + 8]) or name) for i, name in enumerate(names)]


def _documentation(name: str) -> str:
    """As ASCII, so that characters are bytes; "" where this Python has no such object."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = importlib.import_module(".".join(parts[:length]))
                found = attrgetter(".".join(parts[length:]))(module) if length < len(parts) else module
        except (ImportError, AttributeError):
            continue
        return (
            " ".join((inspect.getdoc(found) or "").encode("ascii", "ignore").decode().split())
            .replace('"', "'")
            .replace("\\", "/")
        )
    return ""


def vectors(count: int, *, seed: int = 1) -> Vectors:
    """(count, 384): the real ones' kin. Another seed gives others of the same kind: to search by."""
    real = Stream.load().vectors
    _, scales, directions = np.linalg.svd(real - real.mean(axis=0), full_matrices=False)
    shape = (scales / np.sqrt(len(real)))[:, None] * directions
    random = np.random.default_rng(seed)
    made = np.empty((count, DIMENSION), "<f4")
    for start in range(0, count, 10_000):
        stop = min(count, start + 10_000)
        near = real[random.integers(len(real), size=stop - start)]
        drawn = near + _NOISE * (random.standard_normal((stop - start, len(scales))) @ shape)
        made[start:stop] = drawn / np.linalg.norm(drawn, axis=1)[:, None]
    return made


def types(count: int) -> list[str]:
    """What each memory is."""
    return [str(t) for t in np.random.default_rng(2).choice(TYPES, count, p=_TYPES_SHARE)]


def importances(count: int) -> npt.NDArray[np.float64]:
    """How much each memory matters, evenly from 0 to 1."""
    return np.random.default_rng(3).random(count)


def key(place: int) -> str:
    """Of the memory at this place."""
    return f"stdlib/{place:07}"


def puts(count: int) -> list[MemoryPut]:
    """The first `count` memories, without their vectors."""
    each = zip(payloads(count), types(count), importances(count).tolist(), strict=True)
    return [MemoryPut(key(i), payload, memory_type=kind, importance=weight) for i, (payload, kind, weight) in enumerate(each)]


def in_batches(count: int, size: int) -> list[range]:
    """The places 0 to count, `size` at a time."""
    return [range(start, min(count, start + size)) for start in range(0, count, size)]
