"""An exported history: JSON Lines that can be checked without any server (`verify_export`).

    {"record": "header", "format": "sfm-rho-history/1", "namespace", "tenant", "export_time", "server", "versions", "bodies"}
    {"record": "version", …}    `versions` of them, oldest first: sfm.v1.RhoVersion, with all certificates, without numbers
    {"record": "body", …}       `bodies` of them, each distinct matrix once: "digest" (SHA-256 of the numbers) and "envelope"
                                (base64 of docs/ENVELOPE.md), or "problem" instead of it, where the server could not read it

A certificate refers to the body with its digest, dtype, layout and shape. Digests are hexadecimal, times ISO 8601 with
microseconds, floats what round-trips (infinities as text).
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from sfm_grpc.cli import bodies, output
from sfm_grpc.cli.files import is_special, written
from sfm_grpc.cli.history import BodyId, body_id
from sfm_grpc.client import Certificate, Entry, Kind, Layout, Namespace, RhoVersion
from sfm_grpc.density.envelope import serialize_matrix
from sfm_grpc.density.matrix import from_array
from sfm_grpc.model import Dtype, PsdMethod

FORMAT = "sfm-rho-history/1"


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    versions: Sequence[RhoVersion]
    bodies: int
    problems: Sequence[str]
    """Bodies that the server could not read."""
    gone: int
    """Versions that retention took away meanwhile."""


# ---- writing ---------------------------------------------------------------------------------------------------------


def export_history(namespace: Namespace, path: Path, header: Mapping[str, object]) -> Exported:
    """Writes the history of `namespace` as it is now. Raises NotFound, CommandError, and what `Namespace.read` raises."""
    listed = bodies.all_versions(namespace)
    with written(path) as file, _spooled_beside(path) as spool:
        # Numbers first: which versions can be told of is known when the last one has been read.
        spool.fetch(namespace, listed)
        versions = [v for v in listed if v.version > spool.newest_gone]
        needed = list(dict.fromkeys(body_id(e.certificate) for v in versions for e in v.entries))
        counts = {"versions": len(versions), "bodies": len(needed)}
        file.write(_line({"record": "header", "format": FORMAT, **header, "export_time": datetime.now(UTC), **counts}))
        for version in versions:
            file.write(_line({"record": "version", **output.plain(version)}))
        for body in needed:
            file.write(spool.line(body))
    return Exported(versions, len(needed), spool.problems, len(listed) - len(versions))


class _Spool:
    """Bodies as lines, in a file that nobody else sees, until the header can be written before them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[BodyId, tuple[int, int]] = {}
        self.problems: list[str] = []
        self.newest_gone = 0

    def fetch(self, namespace: Namespace, versions: Sequence[RhoVersion]) -> None:
        """Fetches all that `versions` hold."""
        with output.progress("matrices", bodies.distinct(versions)) as advance:
            for body in bodies.fetch_bodies(namespace, versions):
                if isinstance(body, bodies.Gone):
                    self.newest_gone = max(self.newest_gone, body.version)
                    continue
                self._keep(body)
                advance()

    def _keep(self, body: bodies.Body) -> None:
        c = body.entry.certificate
        record = {"record": "body", "digest": c.digest}
        if body.array is None:
            self.problems.append(body.problem)
            line = _line(record | {"problem": body.problem})
        else:
            envelope = serialize_matrix(from_array(body.array, kind=c.kind, layout=c.layout))
            line = _line(record | {"envelope": base64.b64encode(envelope).decode("ascii")})
        self._places[body_id(c)] = (self._file.tell(), len(line))
        self._file.write(line)

    def line(self, body: BodyId) -> bytes:
        """The line of one body."""
        offset, length = self._places[body]
        self._file.seek(offset)
        return self._file.read(length)


@contextmanager
def _spooled_beside(path: Path) -> Iterator[_Spool]:
    """Where the export itself will have room; a pipe has no such place."""
    with tempfile.TemporaryFile(dir=None if is_special(path) else path.resolve().parent) as file:
        yield _Spool(file)


def _line(record: Mapping[str, object]) -> bytes:
    return json.dumps(output.plain(record), ensure_ascii=False, allow_nan=False).encode() + b"\n"


# ---- reading ---------------------------------------------------------------------------------------------------------


def version_of(record: Mapping[str, Any]) -> RhoVersion:
    """A version record as what was exported. Raises KeyError, TypeError, ValueError for one that is not whole."""
    return RhoVersion(
        version=int(record["version"]),
        commit_time=_moment(record["commit_time"]),
        committer=str(record["committer"]),
        metadata=dict(record["metadata"]),
        valid=_bool(record["valid"]),
        restored_version=int(record["restored_version"]),
        entries=tuple(Entry(str(e["key"]), certificate_of(e["certificate"]), int(e["put_version"])) for e in record["entries"]),
        changed_keys=tuple(map(str, record["changed_keys"])),
    )


def certificate_of(record: Mapping[str, Any]) -> Certificate:
    """A certificate. Raises KeyError, TypeError, ValueError."""
    rows, columns = map(int, record["shape"])
    numbers = {name: float(record[name]) for name in _CERTIFICATE_FLOATS}
    return Certificate(
        kind=Kind[record["kind"].upper()],
        layout=Layout[record["layout"].upper()],
        dtype=Dtype[record["dtype"].upper()],
        shape=(rows, columns),
        digest=bytes.fromhex(record["digest"]),
        valid=_bool(record["valid"]),
        psd_method=PsdMethod[record["psd_method"].upper()],
        psd_ok=_bool(record["psd_ok"]),
        trace_ok=_bool(record["trace_ok"]),
        certify_time_us=int(record["certify_time_us"]),
        **numbers,
    )


_CERTIFICATE_FLOATS = (
    "min_eigenvalue_bound",
    "trace_error",
    "asymmetry",
    "epsilon",
    "trace_tolerance",
    "hermitian_tolerance",
    "clamped_mass",
)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text} names no time zone")
    return moment


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value
