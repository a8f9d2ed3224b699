"""Matrices in local files: .npy, .npz, the envelope in its binary and its JSON form, and the predecessor's JSON.

Files are read by what they hold, written by what they are called. Writing is all or nothing: a file that is there is whole.
"""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from sfm_grpc.cli.exits import CommandError
from sfm_grpc.client import Certificate, Factor, Kind, Layout, Snapshot
from sfm_grpc.density.envelope import open_any, serialize_matrix, serialize_matrix_json
from sfm_grpc.density.matrix import from_array
from sfm_grpc.errors import MatrixMalformed
from sfm_grpc.model import Matrix

SUFFIXES = (".npy", ".npz", ".sfm", ".json")

# No server takes larger messages.
_BYTES_MAX = 1 << 30

_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_matrix(path: Path, key: str, *, factor: bool) -> np.ndarray[Any, Any] | Factor:
    """What `path` holds for `key`. An envelope says itself whether it is a factor; of other files `factor` does.

    Raises CommandError: no such file, no such format, no such array in it.
    """
    try:
        with path.open("rb") as file:
            start = file.read(8)
        if start.startswith(_NPY):
            array = np.load(path, allow_pickle=False)
        elif start.startswith(_ZIP):
            array = _from_archive(path, key)
        else:
            envelope = open_any(path.read_bytes(), bytes_max=_BYTES_MAX)
            array, factor = envelope.array(), factor or envelope.layout is Layout.FACTOR
        from_array(array, kind=Kind.GENERIC)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}") from None
    except MatrixMalformed as error:
        raise CommandError(f"{path}: {error.problem}") from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CommandError(f"{path} is not a file of numbers that numpy can read: {error}") from None
    return Factor(array) if factor else array


def _from_archive(path: Path, key: str) -> np.ndarray[Any, Any]:
    with np.load(path, allow_pickle=False) as archive:
        names = list(archive.files)
        name = key if key in names else names[0] if len(names) == 1 else None
        if name is None:
            raise CommandError(f"{path} holds {', '.join(map(repr, names)) or 'nothing'}, no {key!r}")
        array: np.ndarray[Any, Any] = archive[name]
    return array


def read_vector(path: Path) -> np.ndarray[Any, Any]:
    """The one-dimensional array of real numbers in a .npy file, or in a JSON one; `-` is stdin. Raises CommandError."""
    name = "stdin" if str(path) == "-" else str(path)
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        if content.lstrip().startswith(b"["):
            array = np.array(json.loads(content))
        else:
            array = np.load(io.BytesIO(content), allow_pickle=False)
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError, RecursionError, zipfile.BadZipFile) as error:
        raise CommandError(f"{name} is not a file of numbers that numpy can read: {error}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "fiu":
        raise CommandError(f"{name} holds no vector: one dimension of real numbers is needed")
    return array


# ---- writing ---------------------------------------------------------------------------------------------------------


def check_suffix(path: Path) -> None:
    """Raises CommandError for a name that says no format."""
    if path.suffix.lower() not in SUFFIXES:
        raise CommandError(f"{path}: the name must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


def write_matrices(path: Path, snapshot: Snapshot, *, dense: bool) -> None:
    """All matrices of the snapshot into a .npz, its only one into a file of another kind. `dense`: factors multiplied out."""
    arrays = {key: snapshot.dense(key) if dense else snapshot[key] for key in snapshot.matrices}
    with written(path) as file:
        if path.suffix.lower() == ".npz":
            _write_archive(file, arrays)
            return
        ((key, array),) = arrays.items()
        if path.suffix.lower() == ".npy":
            np.lib.format.write_array(file, array, allow_pickle=False)
            return
        matrix = _matrix(array, snapshot.certificates[key], dense=dense)
        if path.suffix.lower() == ".json":
            file.write(serialize_matrix_json(matrix, timestamp_us=snapshot.commit_time_us).encode() + b"\n")
        else:
            file.write(serialize_matrix(matrix, timestamp_us=snapshot.commit_time_us))


def _matrix(array: np.ndarray[Any, Any], certificate: Certificate, *, dense: bool) -> Matrix:
    return from_array(array, kind=certificate.kind, layout=Layout.DENSE if dense else certificate.layout)


def _write_archive(file: IO[bytes], arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """As numpy.savez, which takes no array called `file`."""
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def is_special(path: Path) -> bool:
    """A pipe or a device, which is written to, never replaced."""
    return path.exists() and not path.is_file()


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when all of it is written and on the disk. Raises CommandError."""
    target = path.resolve()
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if is_special(path):
            with path.open("wb") as file:
                yield file
            return
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            part.unlink()
