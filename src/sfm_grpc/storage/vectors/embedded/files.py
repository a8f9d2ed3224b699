"""The files of a geometry: which generation counts, copies of one, and getting them onto the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson

from sfm_grpc.model import Distance
from sfm_grpc.storage.vectors.contract import IndexDamaged
from sfm_grpc.storage.vectors.points import FORMAT

LOCK = "lock"
"""The file by which one process has an index's directory."""

_CURRENT = "current"
_HOLE = bytes(256 << 10)


def name_of(dimension: int, distance: Distance) -> str:
    """Of a geometry's directory."""
    return f"{dimension}-{distance.name.lower()}"


def shapes(directory: Path) -> dict[str, tuple[int, Distance]]:
    """The geometries that have a directory in an index's, by its name. Raises OSError."""
    return {path.name: shape for path in directory.iterdir() if (shape := _shape(path.name)) is not None}


def _shape(name: str) -> tuple[int, Distance] | None:
    """What the name of a geometry's directory means; None: it is none's."""
    dimension, _, distance = name.partition("-")
    if dimension.isdecimal() and distance.upper() in Distance.__members__:
        return int(dimension), Distance[distance.upper()]
    return None


def current(directory: Path) -> Path | None:
    """The generation that counts; None: none was ever finished. Raises IndexDamaged."""
    try:
        kept = (directory / _CURRENT).read_bytes()
    except FileNotFoundError:
        return None
    try:
        told = orjson.loads(kept)
        made_by, generation = told["format"], directory / str(told["generation"])
    except (ValueError, KeyError, TypeError) as error:
        raise IndexDamaged(problem=f"{directory / _CURRENT} is damaged") from error
    if made_by != FORMAT:
        raise IndexDamaged(problem=f"{directory} has format {made_by}, this release reads {FORMAT}")
    if not generation.is_dir():
        raise IndexDamaged(problem=f"{generation} is gone")
    return generation


def has_current(directory: Path) -> bool:
    """Something was once finished there."""
    return (directory / _CURRENT).exists()


def mark(generation: Path) -> None:
    """Makes it the one that counts, for good: all or nothing."""
    fresh = generation.with_name(f"{_CURRENT}.new")
    fresh.write_bytes(orjson.dumps({"format": FORMAT, "generation": generation.name}))
    _sync(fresh)
    fresh.rename(generation.with_name(_CURRENT))
    _sync(generation.parent)
    _sync(generation.parent.parent)


def following(generation: Path | None, directory: Path) -> Path:
    """Where the next one goes."""
    return directory / f"g{int(generation.name[1:]) + 1 if generation else 1}"


def tail_of(generation: Path) -> Path:
    """What was changed since a generation was copied from the one before, for it to catch up with."""
    return generation.with_suffix(".tail")


def clear(directory: Path, kept: Path | None) -> None:
    """Removes what never counted, or no longer does."""
    for path in directory.iterdir():
        if path != kept and path.name != _CURRENT:
            remove(path)


def discard(directory: Path) -> None:
    """Removes a geometry, whatever state it is in. First what makes it count: the rest may be interrupted."""
    remove(directory / _CURRENT)
    remove(directory)
    if directory.exists():
        shutil.rmtree(directory)  # again, for the error


def remove(path: Path) -> None:
    """A directory or a file; nothing where it is gone already."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def copy(source: Path, target: Path) -> None:
    """A directory with all that is in it, holes stay holes. Nobody may write to it meanwhile; looking at it is fine."""
    target.mkdir()
    for entry in source.iterdir():
        if entry.is_dir():
            copy(entry, target / entry.name)
        else:
            _copy_file(entry, target / entry.name)


def _copy_file(source: Path, target: Path) -> None:
    # A block of zeros is left out, whatever it was in the source: to ask file systems for holes is to trust that they know about
    # pages that are mapped and dirty, which some did not.
    step = bytearray(len(_HOLE))
    with source.open("rb", buffering=0) as old, target.open("wb") as new:
        while size := old.readinto(step):
            if step[:size] == _HOLE[:size]:
                new.seek(size, os.SEEK_CUR)
            else:
                new.write(step[:size])
        new.truncate()


def sync(directory: Path) -> None:
    """Has everything in it on the disk, also what the engine wrote through maps of its own."""
    for root, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # the engine goes on meanwhile
                _sync(Path(root, name))
        with contextlib.suppress(FileNotFoundError):
            _sync(Path(root))


def sync_log(directory: Path, known: frozenset[str]) -> frozenset[str]:
    """Has what the engine wrote into its log on the disk; `known` are the files that were there last time, and these now."""
    names = frozenset(path.name for path in directory.iterdir())
    for name in names:
        _sync(directory / name, os.fdatasync)
    if names != known:
        _sync(directory)
    return names


def _sync(path: Path, how: Callable[[int], None] = os.fsync) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        how(descriptor)
    finally:
        os.close(descriptor)
