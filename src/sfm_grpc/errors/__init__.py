"""Every way a call can fail, as a class that carries facts. The server raises them, the client raises the same ones again.

An error travels as google.rpc.Status with one ErrorInfo: domain `sfm`, `reason`, and the facts as text. `facts()` and
`from_facts()` are that text; `rpc/errors.py` and `client/errors.py` put it on and take it off the wire. docs/ERRORS.md is the
table for callers.
"""

from collections.abc import Mapping

from sfm_grpc.errors.base import DOMAIN, Code, SfmError
from sfm_grpc.errors.kept import (
    AlreadyExists,
    ConfirmationRequired,
    NotFound,
    VersionCompacted,
    VersionConflict,
    VersionNotReached,
)
from sfm_grpc.errors.matrices import (
    KindChanged,
    MatrixMalformed,
    RhoCorrupt,
    RhoNotFinite,
    RhoNotHermitian,
    RhoNotPsd,
    RhoTrace,
    StepTooLarge,
)
from sfm_grpc.errors.prunes import (
    PruneConfirmationRequired,
    PruneNotUndoable,
    PrunePlanSpent,
    PrunePlanStale,
    PruneTokenInvalid,
    QuotaExceeded,
)
from sfm_grpc.errors.requests import InvalidRequest, LimitExceeded, RequestIdReused
from sfm_grpc.errors.service import (
    DeadlineExceeded,
    Draining,
    IndexUnavailable,
    InternalError,
    Overloaded,
    StoreRefused,
    StoreUnavailable,
    UnexpectedStatus,
    Unreachable,
)

BY_REASON: Mapping[str, type[SfmError]] = {c.reason: c for c in SfmError.__subclasses__() if c.reason}
"""The class of each reason; the proto's ErrorReason lists the same names."""

__all__ = [
    "BY_REASON",
    "DOMAIN",
    "AlreadyExists",
    "Code",
    "ConfirmationRequired",
    "DeadlineExceeded",
    "Draining",
    "IndexUnavailable",
    "InternalError",
    "InvalidRequest",
    "KindChanged",
    "LimitExceeded",
    "MatrixMalformed",
    "NotFound",
    "Overloaded",
    "PruneConfirmationRequired",
    "PruneNotUndoable",
    "PrunePlanSpent",
    "PrunePlanStale",
    "PruneTokenInvalid",
    "QuotaExceeded",
    "RequestIdReused",
    "RhoCorrupt",
    "RhoNotFinite",
    "RhoNotHermitian",
    "RhoNotPsd",
    "RhoTrace",
    "SfmError",
    "StepTooLarge",
    "StoreRefused",
    "StoreUnavailable",
    "UnexpectedStatus",
    "Unreachable",
    "VersionCompacted",
    "VersionConflict",
    "VersionNotReached",
]
