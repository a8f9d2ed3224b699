"""What a commit says, and what is known afterwards: pure functions under `flows`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, TypedDict

from sfm.v1 import rho_store_pb2

from sfm_grpc.client import convert
from sfm_grpc.client.cache import Selection
from sfm_grpc.client.memory_convert import receipt_of
from sfm_grpc.client.memory_records import MemoryDelete, MemoryPut, MemoryUpdate
from sfm_grpc.client.records import (
    Array,
    Changes,
    Commit,
    Consistency,
    Factor,
    KindName,
    Receipt,
    Snapshot,
    frozen,
    microseconds,
    moment,
)
from sfm_grpc.errors import InvalidRequest
from sfm_grpc.model import Certificate, Kind, Matrix, Metadata

LastValid: TypeAlias = Literal["last_valid"]
MaxStep: TypeAlias = float | Mapping[str, float] | None
Kinds: TypeAlias = Mapping[str, KindName] | None
Keys: TypeAlias = str | Iterable[str] | None
MemoryChanges: TypeAlias = Iterable[MemoryPut | MemoryUpdate | MemoryDelete]

_KINDS: Mapping[str, Kind] = {"density": Kind.DENSITY, "generic": Kind.GENERIC}


class CommitOptions(TypedDict, total=False):
    """What `commit` and `update` both take, with the defaults of `commit`."""

    metadata: Metadata | None
    max_step: MaxStep
    kinds: Kinds
    memories: MemoryChanges
    """What happens to memories of the namespace in the same commit: both or neither."""


class ReadOptions(TypedDict, total=False):
    """What `read` takes beside the keys, with its defaults."""

    version: int | None
    consistency: Consistency
    min_version: int | None
    max_staleness_s: float | None
    timeout_s: float | None


class SingleCommitOptions(CommitOptions, total=False):
    """What `commit` takes beside the changes and the version, with its defaults."""

    request_id: str | None
    validate_only: bool
    timeout_s: float | None


class UpdateOptions(CommitOptions, total=False):
    """What `update` takes beside the function, with its defaults."""

    attempts: int
    timeout_s: float | None


def base_version(namespace: str, expected: int | Snapshot) -> int:
    """The version that is expected. Raises InvalidRequest for a snapshot of another namespace."""
    if not isinstance(expected, Snapshot):
        return expected
    if expected.namespace != namespace:
        raise InvalidRequest(field="expected_version", problem=f"the snapshot is of {expected.namespace!r}, not of {namespace!r}")
    return expected.version


def _kind_of(key: str, change: object, kinds: Kinds, known: Mapping[str, Certificate]) -> Kind:
    """A key's kind: as the caller says, else as the given snapshot has it, else density for a factor and for `rho`."""
    if kinds and key in kinds:
        if kinds[key] not in _KINDS:
            raise InvalidRequest(field="kinds", problem=f"{kinds[key]!r} of {key!r} is neither 'density' nor 'generic'")
        return _KINDS[kinds[key]]
    if key in known:
        return known[key].kind
    return Kind.DENSITY if key == "rho" or isinstance(change, Factor) else Kind.GENERIC


def matrices_of(changes: Changes, expected: int | Snapshot | None, *, kinds: Kinds, max_step: MaxStep) -> dict[str, Matrix]:
    """The matrices that are put, of the kinds that are meant. Raises InvalidRequest, MatrixMalformed: before anything is sent."""
    known = expected.certificates if isinstance(expected, Snapshot) else {}
    matrices = {
        key: convert.matrix_of(key, change, _kind_of(key, change, kinds, known))
        for key, change in changes.items()
        if change is not None
    }
    _check_named("max_step", max_step, changes)
    _check_named("kinds", kinds, changes)
    return matrices


def _check_named(field: str, given: object, changes: Changes) -> None:
    """A misspelt key would silently switch off the guard it was meant for."""
    if isinstance(given, Mapping) and (unknown := [key for key in given if key not in changes]):
        raise InvalidRequest(field=field, problem=f"names {unknown[0]!r}, which is not among the changes")


def updates(changes: Changes, matrices: Mapping[str, Matrix], max_step: MaxStep) -> list[rho_store_pb2.MatrixUpdate]:
    """The changes as messages, with room for the numbers of `matrices` in their order."""
    positions = {key: position for position, key in enumerate(matrices)}
    bounds = max_step if isinstance(max_step, Mapping) else dict.fromkeys(matrices, max_step)
    return [
        rho_store_pb2.MatrixUpdate(
            key=key,
            max_step=bounds.get(key),
            put=convert.put_skeleton(matrices[key], positions[key]) if key in matrices else None,
            delete=None if key in matrices else rho_store_pb2.DeleteMatrix(),
        )
        for key in changes
    ]


def commit_of(namespace: str, request_id: str, reply: bytes) -> Commit:
    """A CommitRhoResponse. Raises UnexpectedStatus when it is none."""
    with convert.believed("CommitRho"):
        response = rho_store_pb2.CommitRhoResponse.FromString(reply)
        return Commit(
            namespace=namespace,
            version=response.version,
            commit_time=moment(convert.us_of(response.commit_time)),
            receipts=frozen({r.key: matrix_receipt_of(r) for r in response.receipts}),
            replayed=response.replayed,
            request_id=request_id,
            memories=tuple(receipt_of(m, replayed=response.replayed, request_id=request_id) for m in response.memories),
        )


def matrix_receipt_of(message: rho_store_pb2.MatrixReceipt) -> Receipt:
    """What became of one matrix."""
    return Receipt(
        deleted=message.deleted,
        digest=message.digest,
        clamped=message.clamped,
        certificate=None if message.deleted else convert.certificate_of(message.certificate),
        step=message.step if message.HasField("step") else None,
    )


def after_commit(before: Snapshot, selection: Selection, commit: Commit, sent: Mapping[str, Array]) -> Snapshot | None:
    """What this selection holds after the commit; None when that is not what was sent (a clamp) or a key of it is gone."""
    matrices, certificates = dict(before.matrices), dict(before.certificates)
    put_versions = dict(before.put_versions)
    for key, receipt in commit.receipts.items():
        if selection is not None and key not in selection:
            continue
        for part in (matrices, certificates, put_versions):
            part.pop(key, None)
        if receipt.certificate is not None:
            if receipt.clamped or receipt.certificate.clamped:
                return None
            matrices[key], certificates[key], put_versions[key] = sent[key], receipt.certificate, commit.version
    if selection is not None and len(matrices) < len(selection):
        return None
    keys = sorted(matrices)
    time_us = microseconds(commit.commit_time)
    return Snapshot(
        namespace=commit.namespace,
        version=commit.version,
        commit_time_us=time_us,
        as_of_time_us=time_us,
        source="canonical",
        degraded=False,
        modified=False,
        matrices=frozen({key: matrices[key] for key in keys}),
        certificates=frozen({key: certificates[key] for key in keys}),
        put_versions=frozen({key: put_versions[key] for key in keys}),
    )
