"""Transactions, as the coordinator would build them, for tests that ask an engine itself."""

from __future__ import annotations

import time

from sfm_grpc.density.admission import Bounds, admit
from sfm_grpc.density.matrix import from_array
from sfm_grpc.model import (
    DeleteMatrix,
    Enforcement,
    Event,
    Kind,
    MatrixChange,
    PutMatrix,
    RequestIdentity,
    Scope,
    Transaction,
)
from tests.support.matrices import Array

N = Scope("default", "n")


def putting(key: str, array: Array, kind: Kind = Kind.DENSITY, *, valid: bool = True) -> PutMatrix:
    """A change that puts a matrix; not `valid`: one that `observe` let in."""
    enforcement = Enforcement.ENFORCE if valid else Enforcement.OBSERVE
    admitted = admit(from_array(array, kind=kind), Bounds(), key=key, enforcement=enforcement, now_us=1)
    assert admitted.certificate.valid is valid
    return PutMatrix(key, admitted.matrix, admitted.certificate)


def deleting(key: str) -> DeleteMatrix:
    """A change that deletes."""
    return DeleteMatrix(key)


def request(request_id: str, content: bytes = b"c" * 32, method: str = "CommitRho") -> RequestIdentity:
    """What makes a mutation the same one when it arrives again."""
    return RequestIdentity(method, request_id, content)


def transaction(
    *changes: MatrixChange,
    scope: Scope = N,
    expected: int | None = None,
    asked: RequestIdentity | None = None,
    time_us: int | None = None,
    receipt: bytes = b"receipt",
    validate_only: bool = False,
    committer: str = "",
) -> Transaction:
    """One mutation."""
    return Transaction(
        scope=scope,
        changes=changes,
        expected_version=expected,
        request=asked,
        committer=committer,
        time_us=time.time_ns() // 1000 if time_us is None else time_us,
        receipt=receipt,
        event_of=lambda _version: Event("rho.status", {"namespace": scope.namespace}),
        validate_only=validate_only,
    )
