"""The embedded index: no server, a directory. What it stands on is in `embedded/`."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import importlib.metadata
import os
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfm_grpc.errors import IndexUnavailable
from sfm_grpc.model import Buffer, Distance, MemoryFilter
from sfm_grpc.storage.vectors import points
from sfm_grpc.storage.vectors.contract import Field, Hit, Point, Refused
from sfm_grpc.storage.vectors.embedded import early, files
from sfm_grpc.storage.vectors.embedded.frames import Words
from sfm_grpc.storage.vectors.embedded.geometry import Geometry
from sfm_grpc.storage.vectors.points import Identities, scope_name

_IDENTITY = "identity"
_FEW = 16
"""Points that are prepared where they come in; more, on a thread."""


class EdgeIndex:
    """`contract.VectorIndex` in a directory, which is this process's alone; each geometry is a directory in it."""

    name = "qdrant-edge"
    exclusive = True
    identity = ""

    def __init__(self, directory: Path, *, graph_points_min: int = 5_000) -> None:
        """Points that are in no graph are compared one by one; so many of them are worth building one."""
        self._directory = directory
        self._graph_points_min = graph_points_min
        self._geometries: dict[tuple[int, Distance], Geometry] = {}
        self._lock = -1

    async def open(self) -> None:
        """See the contract."""
        if self._lock < 0:
            self._lock = await asyncio.to_thread(self._locked)
        self.identity = await asyncio.to_thread(self._identify)

    def _identify(self) -> str:
        """What is written in the directory, or is now: whoever empties it empties that, too."""
        path = self._directory / _IDENTITY
        try:
            if not path.exists():
                fresh = path.with_suffix(".new")
                fresh.write_text(secrets.token_hex(16))
                fresh.replace(path)
            return path.read_text()
        except OSError as error:
            raise IndexUnavailable(problem=f"{path} cannot be used: {error.strerror}") from error

    def _locked(self) -> int:
        if (early_lock := early.taken_lock(self._directory)) >= 0:
            return early_lock
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            lock = os.open(self._directory / files.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise IndexUnavailable(problem=f"{self._directory} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise IndexUnavailable(
                problem=f"{self._directory} is in use by another process; stop that one, or name another directory"
            ) from error
        return lock

    async def close(self) -> None:
        """See the contract."""
        lock, self._lock = self._lock, -1
        await asyncio.gather(*(geometry.close() for geometry in self._geometries.values()), early.end())
        self._geometries.clear()
        if lock >= 0:
            os.close(lock)

    async def check(self) -> str:
        """See the contract."""
        kept = await asyncio.to_thread(self._kept)
        for shape in kept:
            await self._of(*shape).ask({"do": "look"})
        names = ", ".join(files.name_of(*shape) for shape in kept) or "nothing kept yet"
        return f"Qdrant's engine {importlib.metadata.version('qdrant-edge-py')} in {self._directory}: {names}"

    def _kept(self) -> list[tuple[int, Distance]]:
        """Geometries of which something is kept."""
        return [shape for shape in sorted(files.shapes(self._directory).values()) if self._of(*shape).is_there]

    # ---- changes

    async def apply(self, field: Field, puts: Sequence[Point], gone: Collection[str]) -> Sequence[Refused]:
        """See the contract."""
        prepare = functools.partial(_change, field, puts, gone)
        change = prepare() if len(puts) + len(gone) <= _FEW else await asyncio.to_thread(prepare)
        geometry = self._of(field.dimension, field.distance)
        if change.words["puts"] or (change.words["gone"] and geometry.is_there):
            await geometry.change(change.words, change.numbers, points=len(puts) + len(gone))
        return change.refused

    async def drop(self, field: Field) -> None:
        """See the contract."""
        geometry = self._of(field.dimension, field.distance)
        if geometry.is_there:
            await geometry.change({"do": "drop", "scope": scope_name(field)}, points=await self.count(field))

    async def discard(self, dimension: int, distance: Distance) -> None:
        """See the contract."""
        await asyncio.to_thread((self._directory / _IDENTITY).unlink, missing_ok=True)
        await self._of(dimension, distance).discard()
        self.identity = await asyncio.to_thread(self._identify)

    # ---- questions

    async def search(self, field: Field, vector: Buffer, chosen: MemoryFilter, *, now_us: int, limit: int) -> Sequence[Hit]:
        """See the contract."""
        sought = points.sought(field, vector)
        geometry = self._of(field.dimension, field.distance)
        if not geometry.is_there or limit == 0:
            return ()
        effort = points.effort(chosen, limit)
        conditions = points.living(scope_name(field), chosen, now_us)
        how = {"limit": limit, "beam": effort.beam, "wide": effort.wide}
        told = await geometry.ask({"do": "search", "conditions": conditions, "how": how}, sought)
        return [Hit(key, revision, score) for key, revision, score in told["hits"]]

    async def count(self, field: Field) -> int:
        """See the contract."""
        geometry = self._of(field.dimension, field.distance)
        if not geometry.is_there:
            return 0
        return int((await geometry.ask({"do": "count", "scope": scope_name(field)}))["count"])

    async def scan(self, field: Field, *, after: str, limit: int) -> tuple[Sequence[tuple[str, int]], str]:
        """See the contract."""
        geometry = self._of(field.dimension, field.distance)
        if not geometry.is_there:
            return (), ""
        told = await geometry.ask({"do": "scan", "scan": {"scope": scope_name(field), "after": after, "limit": limit}})
        return [(key, revision) for key, revision in told["found"]], str(told["after"])

    def _of(self, dimension: int, distance: Distance) -> Geometry:
        """The geometry, whether or not there is something in it. Raises IndexUnavailable."""
        if self._lock < 0:
            raise IndexUnavailable(problem=f"{self._directory} is closed")
        shape = (dimension, distance)
        if shape not in self._geometries:
            directory = self._directory / files.name_of(*shape)
            self._geometries[shape] = Geometry(directory, *shape, graph_points_min=self._graph_points_min)
        return self._geometries[shape]


@dataclass(frozen=True, slots=True)
class _Change:
    """What an engine is told to put and let go of, and what it is not."""

    words: Words
    numbers: bytes
    refused: list[Refused]


def _change(field: Field, puts: Sequence[Point], gone: Collection[str]) -> _Change:
    taken, refused = points.sift(field, puts)
    scope, identities = scope_name(field), Identities(field)
    words: Words = {
        "do": "apply",
        "puts": [(identities.of(put.key), points.payload(scope, put)) for put in taken],
        "gone": [identities.of(key) for key in gone],
    }
    return _Change(words, b"".join(put.vector for put in taken), refused)
