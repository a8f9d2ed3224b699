"""Checks an exported history line by line: numbers, digests, certificates, and that every version follows from the one before.

Numbers are held one matrix at a time; certificates all at once.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sfm_grpc.cli import output
from sfm_grpc.cli.exits import CommandError
from sfm_grpc.cli.export import FORMAT, version_of
from sfm_grpc.cli.history import BodyId, Wrong, body_id, check_history
from sfm_grpc.cli.measure import Bounds, Measured, measure, problems_of
from sfm_grpc.client import Certificate, Kind, RhoVersion
from sfm_grpc.density.envelope import open_envelope
from sfm_grpc.errors import MatrixMalformed

# No server takes larger messages.
_BYTES_MAX = 1 << 30


@dataclass(slots=True)
class KeySummary:
    """What was found of one key, over all versions."""

    versions: int = 0
    matrices: int = 0
    min_eigenvalue: float | None = None
    """The smallest; None: no density matrix."""
    min_eigenvalue_bound: float | None = None
    """The smallest that was certified."""
    trace_error: float = 0.0
    asymmetry: float = 0.0


@dataclass(slots=True)
class Found:
    """What an exported history turned out to be."""

    header: Mapping[str, Any] = field(default_factory=dict)
    versions: list[RhoVersion] = field(default_factory=list)
    bodies: int = 0
    keys: dict[str, KeySummary] = field(default_factory=dict)
    wrong: list[Wrong] = field(default_factory=list)


def check_export(path: Path, bounds: Bounds) -> Found:
    """Checks all of `path`. Raises CommandError for a file that cannot be read or is no exported history at all."""
    try:
        with path.open("rb") as file:
            return _Checker(file, bounds).check()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from None
    except _FormatError as error:
        raise CommandError(f"{path} is not an exported history: {error}") from None


class _FormatError(Exception):
    """The first line is not the header of a format that is known."""


class _Checker:
    """One pass over the lines."""

    def __init__(self, file: IO[bytes], bounds: Bounds) -> None:
        self._file = file
        self._bounds = bounds
        self._found = Found()
        self._uses: dict[BodyId, list[tuple[RhoVersion, str, Certificate]]] = {}
        self._seen: set[BodyId] = set()

    def check(self) -> Found:
        """Reads to the end."""
        found = self._found
        found.header = _header(self._file.readline())
        promised = found.header.get("bodies")
        with output.progress("matrices", promised if isinstance(promised, int) else 0) as advance:
            for number, line in enumerate(self._file, 2):
                self._check_line(line, number)
                if line.startswith(b'{"record": "body"'):
                    advance()
        found.wrong += check_history(found.versions)
        self._check_counts()
        for body, uses in self._uses.items():
            if body not in self._seen:
                version, key, certificate = uses[0]
                digest = certificate.digest.hex()[:16]
                self._add(f"its numbers (SHA-256 {digest}…, {_shape(certificate)}) are not in the file", version.version, key)
        return found

    def _check_line(self, line: bytes, number: int) -> None:
        try:
            record = _object(line)
            match record.get("record"):
                case "version":
                    self._check_version(version_of(record), number)
                case "body":
                    self._check_body(record, number)
                case other:
                    self._add(f"line {number}: unknown record {str(other)[:40]!r}")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            said = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
            self._add(f"line {number} is damaged: {said[:200]}")

    def _check_version(self, version: RhoVersion, number: int) -> None:
        if self._seen:
            self._add(f"line {number}: a version after the first body")
        self._found.versions.append(version)
        for entry in version.entries:
            self._uses.setdefault(body_id(entry.certificate), []).append((version, entry.key, entry.certificate))
            self._found.keys.setdefault(entry.key, KeySummary()).versions += 1

    def _check_body(self, record: Mapping[str, Any], number: int) -> None:
        self._found.bodies += 1
        digest = bytes.fromhex(record["digest"])
        if "problem" in record:
            self._mark_missing(digest, str(record["problem"]))
            return
        try:
            envelope = open_envelope(base64.b64decode(record["envelope"], validate=True), bytes_max=_BYTES_MAX)
        except (MatrixMalformed, binascii.Error) as error:
            self._mark_missing(digest, f"line {number}: {error}")
            return
        if envelope.numbers_digest != digest:
            self._add(f"line {number}: the numbers have SHA-256 {envelope.numbers_digest.hex()[:16]}…, not {digest.hex()[:16]}…")
        body: BodyId = (envelope.numbers_digest, envelope.dtype, envelope.layout, envelope.shape)
        if body in self._seen:
            self._add(f"line {number}: numbers that were there before")
        elif body not in self._uses:
            self._add(f"line {number}: numbers (SHA-256 {body[0].hex()[:16]}…) that no version holds")
        self._seen.add(body)
        self._judge(body, envelope.array())

    def _judge(self, body: BodyId, array: Any) -> None:
        """Measures once, and compares with every certificate that speaks of these numbers."""
        measured: dict[Kind, Measured] = {}
        told: set[tuple[str, Certificate]] = set()
        for version, key, certificate in self._uses.get(body, ()):
            if (key, certificate) in told:
                continue
            told.add((key, certificate))
            found = measured.get(certificate.kind) or measure(array, certificate.kind, certificate.layout)
            measured[certificate.kind] = found
            self._summarize(self._found.keys[key], found, certificate)
            for problem in problems_of(found, array.shape, certificate, self._bounds):
                self._add(problem, version.version, key)

    def _summarize(self, summary: KeySummary, found: Measured, claimed: Certificate) -> None:
        summary.matrices += 1
        if claimed.kind is Kind.DENSITY and found.finite:
            summary.min_eigenvalue = min(found.min_eigenvalue, _or_infinity(summary.min_eigenvalue))
            summary.min_eigenvalue_bound = min(claimed.min_eigenvalue_bound, _or_infinity(summary.min_eigenvalue_bound))
            summary.trace_error = max(summary.trace_error, found.trace_error)
            summary.asymmetry = max(summary.asymmetry, found.asymmetry)

    def _mark_missing(self, digest: bytes, problem: str) -> None:
        """Numbers that are not there, told where they are first needed."""
        needed = [body for body in self._uses if body[0] == digest]
        self._seen.update(needed)
        uses = [use for body in needed for use in self._uses[body]]
        self._add(problem, *((uses[0][0].version, uses[0][1]) if uses else ()))

    def _check_counts(self) -> None:
        header, found = self._found.header, self._found
        for name, count in (("versions", len(found.versions)), ("bodies", found.bodies)):
            if header.get(name) != count:
                self._add(f"the header promises {header.get(name)} {name}, the file has {count}: it is not whole")

    def _add(self, problem: str, version: int | None = None, key: str | None = None) -> None:
        self._found.wrong.append(Wrong(problem, version, key))


def _header(line: bytes) -> Mapping[str, Any]:
    try:
        header = _object(line)
    except (ValueError, RecursionError):
        raise _FormatError("its first line is no JSON object") from None
    if header.get("record") != "header":
        raise _FormatError("its first line is not a header")
    if header.get("format") != FORMAT:
        raise _FormatError(f"its format is {str(header.get('format'))[:40]!r}, this reader knows {FORMAT!r}")
    return header


def _object(line: bytes) -> dict[str, Any]:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _shape(certificate: Certificate) -> str:
    return "×".join(map(str, certificate.shape))


def _or_infinity(value: float | None) -> float:
    return float("inf") if value is None else value
