"""Matrices as they were sent, and what becomes of them on the admission threads: never on the event loop."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from sfm_grpc.density.admission import Admitted, Bounds, admit
from sfm_grpc.density.envelope import open_envelope
from sfm_grpc.density.envelope import promised_bytes as envelope_promises
from sfm_grpc.density.matrix import checked_matrix, from_doubles
from sfm_grpc.errors import InvalidRequest, MatrixMalformed, SfmError
from sfm_grpc.model import Buffer, Dtype, Enforcement, Kind, Layout, Matrix

RHO = "rho"
"""The key that is always a density matrix."""


class Form(enum.Enum):
    """The wire form of a matrix."""

    DATA = enum.auto()
    DOUBLES = enum.auto()
    FACTOR = enum.auto()
    ENVELOPE = enum.auto()


@dataclass(frozen=True, slots=True)
class SentMatrix:
    """A matrix as it came: nothing of it is checked yet."""

    form: Form
    kind: Kind | None
    dtype: Dtype | None
    shape: tuple[int, ...]
    digest: bytes
    body: Buffer


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """What admission needs to know besides the matrix."""

    bounds: Bounds
    enforcement: Enforcement
    dimension_max: int
    matrix_bytes_max: int


def examine(
    sent: SentMatrix, *, key: str, field: str, rules: AdmissionRules, previous: Matrix | None, now_us: int, patient: bool = True
) -> Admitted:
    """Admits one matrix. CPU-bound; the large steps let the GIL go.

    Raises what `density.admission.admit` raises and InvalidRequest, each naming the request field.
    """
    with _named(key, field):
        matrix, digest = _built(sent, key=key, field=field, rules=rules)
        return admit(
            matrix,
            rules.bounds,
            key=key,
            enforcement=rules.enforcement,
            now_us=now_us,
            sent_digest=digest,
            claimed_digest=sent.digest,
            previous=previous,
            patient=patient,
        )


def promised_bytes(sent: SentMatrix, *, key: str, field: str, dimension_max: int) -> int:
    """Bytes that the numbers take in memory, an envelope's by its header alone. Raises MatrixMalformed."""
    with _named(key, field):
        return envelope_promises(sent.body, dimension_max) if sent.form is Form.ENVELOPE else len(sent.body)


@contextmanager
def _named(key: str, field: str) -> Iterator[None]:
    """Errors name the key and the request field, which the pure functions below do not know."""
    try:
        yield
    except SfmError as error:
        for name, value in (("key", key), ("field", field)):
            if getattr(error, name, None) == "":
                setattr(error, name, value)
        raise


def _built(sent: SentMatrix, *, key: str, field: str, rules: AdmissionRules) -> tuple[Matrix, bytes | None]:
    """The matrix, and the SHA-256 of its numbers where opening it has computed that already."""
    kind = _kind(sent.kind, key, field)
    if sent.form is Form.ENVELOPE:
        return _from_envelope(sent, kind, key, rules)
    if sent.dtype is None:
        raise InvalidRequest(field=f"{field}.dtype", problem="is required: DTYPE_FLOAT64 or DTYPE_FLOAT32")
    if sent.form is Form.DOUBLES and sent.dtype is not Dtype.FLOAT64:
        doubles = np.frombuffer(sent.body, "<f8")
        return from_doubles(
            doubles, kind=kind, dtype=sent.dtype, shape=sent.shape, dimension_max=rules.dimension_max, key=key
        ), None
    # Packed doubles are little-endian binary64, as `data` is.
    matrix = checked_matrix(
        kind=kind,
        layout=Layout.FACTOR if sent.form is Form.FACTOR else Layout.DENSE,
        dtype=sent.dtype,
        shape=sent.shape,
        numbers=sent.body,
        dimension_max=rules.dimension_max,
        key=key,
    )
    return matrix, None


def _kind(kind: Kind | None, key: str, field: str) -> Kind:
    if key == RHO:
        if kind is Kind.GENERIC:
            raise InvalidRequest(field=f"{field}.kind", problem=f"the key {RHO!r} is always MATRIX_KIND_DENSITY")
        return Kind.DENSITY
    if kind is None:
        raise InvalidRequest(field=f"{field}.kind", problem="is required: MATRIX_KIND_DENSITY or MATRIX_KIND_GENERIC")
    return kind


def _from_envelope(sent: SentMatrix, kind: Kind, key: str, rules: AdmissionRules) -> tuple[Matrix, bytes]:
    envelope = open_envelope(sent.body, bytes_max=rules.matrix_bytes_max, dimension_max=rules.dimension_max)
    said: Sequence[tuple[str, object, object]] = (
        ("dtype", sent.dtype, envelope.dtype),
        ("shape", sent.shape or None, envelope.shape),
    )
    for name, outside, inside in said:
        if outside is not None and outside != inside:
            raise MatrixMalformed(problem=f"{name} is {outside} beside the envelope and {inside} inside it", key=key)
    return envelope.matrix(kind, key=key), envelope.numbers_digest
