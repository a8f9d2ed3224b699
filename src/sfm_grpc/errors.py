"""Every way a call can fail, as a class that carries facts. The server raises them, the client raises the same ones again.

An error travels as google.rpc.Status with one ErrorInfo: domain `sfm`, `reason`, and the facts as text. `facts()` and
`from_facts()` are that text; `rpc/errors.py` and `client/errors.py` put it on and take it off the wire. docs/ERRORS.md is the
table for callers.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar

DOMAIN = "sfm"

# Trailing metadata has a few KiB: a list of names is cut, never the call.
_NAMES_SHOWN = 20


class Code(enum.Enum):
    """The gRPC status codes this project answers with, by gRPC's own names."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ABORTED = "ABORTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    INTERNAL = "INTERNAL"


class SfmError(Exception):
    """The base of every error here. `str()` is one sentence with the numbers; the attributes are the facts."""

    code: ClassVar[Code] = Code.INTERNAL
    reason: ClassVar[str] = ""

    request_id: str = ""
    """The server's id of the failed call, set by the client; it finds the call in the server's log."""

    seen: object = None
    """The `model.CacheSeen` of the look in which an engine refused a transaction: for whoever tells the refusal. No fact."""

    def __post_init__(self) -> None:
        """Completes a dataclass exception: its arguments are its facts."""
        super().__init__(*self.facts().values())

    def __str__(self) -> str:
        return self.sentence()

    def sentence(self) -> str:
        """What was wrong, the numbers, and what to do."""
        return ", ".join(f"{k}={v}" for k, v in self.facts().items()) or type(self).__name__

    @property
    def field_path(self) -> str:
        """The request field that is to blame, '' when none is."""
        return str(getattr(self, "field", ""))

    @property
    def retry_delay_s(self) -> float | None:
        """How long to wait before the same call may succeed; None: a retry will not help."""
        return getattr(self, "retry_after_s", None)

    def facts(self) -> dict[str, str]:
        """The attributes as text, for ErrorInfo's metadata."""
        return {name: _to_text(getattr(self, name)) for name in _hints(type(self))}

    @classmethod
    def from_facts(cls, facts: Mapping[str, str]) -> SfmError:
        """The error again; a fact that is missing (an older server) gets its type's zero."""
        types = _hints(cls)
        return cls(**{name: _from_text(facts.get(name), kind) for name, kind in types.items()})


def _to_text(value: object) -> str:
    if isinstance(value, tuple):
        return json.dumps(list(value[:_NAMES_SHOWN]), ensure_ascii=True)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    return str(value)


def _from_text(text: str | None, kind: object) -> object:
    if kind is bool:
        return text == "true"
    if kind is int:
        return int(text or 0)
    if kind is float:
        return float(text or "nan")
    if kind is str:
        return text or ""
    return tuple(json.loads(text or "[]"))


_HINTS: dict[type[SfmError], dict[str, object]] = {}


def _hints(cls: type[SfmError]) -> dict[str, object]:
    """The names and types of a class's facts; found once, it takes half a millisecond."""
    found = _HINTS.get(cls)
    if found is None:
        found = _HINTS[cls] = _find_hints(cls)
    return found


def _find_hints(cls: type[SfmError]) -> dict[str, object]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else {}


def _when(time_us: int) -> str:
    try:
        return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="milliseconds") if time_us else "an unknown time"
    except (ValueError, OverflowError, OSError):
        return f"{time_us} µs after the epoch"


def _names(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(repr(n) for n in names[:_NAMES_SHOWN]) + more


# ---- what the caller sent ------------------------------------------------------------------------------------------


@dataclass(eq=False, kw_only=True)
class InvalidRequest(SfmError):
    """A field of the request is missing or out of range."""

    code = Code.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"
    field: str
    problem: str

    def sentence(self) -> str:
        return f"{self.field}: {self.problem}"


@dataclass(eq=False, kw_only=True)
class MatrixMalformed(SfmError):
    """The bytes, shape, dtype or digest do not describe a matrix."""

    code = Code.INVALID_ARGUMENT
    reason = "MATRIX_MALFORMED"
    problem: str
    key: str = ""
    field: str = ""

    def sentence(self) -> str:
        return f"matrix {self.key!r}: {self.problem}" if self.key else self.problem


@dataclass(eq=False, kw_only=True)
class RhoNotFinite(SfmError):
    """A NaN or an infinity."""

    code = Code.INVALID_ARGUMENT
    reason = "RHO_NOT_FINITE"
    row: int
    column: int
    value: float
    count: int
    key: str = ""
    field: str = ""

    def sentence(self) -> str:
        return f"matrix {self.key!r} holds {self.count} numbers that are not finite, the first {self.value} at [{self.row}, {self.column}]"


@dataclass(eq=False, kw_only=True)
class RhoNotHermitian(SfmError):
    """‖ρ − ρᵀ‖_F is over the tolerance."""

    code = Code.INVALID_ARGUMENT
    reason = "RHO_NOT_HERMITIAN"
    asymmetry: float
    tolerance: float
    row: int
    column: int
    difference: float
    dtype: str
    dimension: int
    key: str = ""
    field: str = ""

    def sentence(self) -> str:
        return (
            f"matrix {self.key!r} ({self.dimension}×{self.dimension} {self.dtype}) is not Hermitian: ‖ρ − ρᵀ‖_F = {self.asymmetry:.3g} "
            f"> {self.tolerance:.3g}, worst at [{self.row}, {self.column}] ({self.difference:.3g}); send (ρ + ρᵀ)/2"
        )


@dataclass(eq=False, kw_only=True)
class RhoTrace(SfmError):
    """|tr ρ − 1| is over the tolerance."""

    code = Code.INVALID_ARGUMENT
    reason = "RHO_TRACE"
    trace: float
    trace_error: float
    tolerance: float
    dtype: str
    dimension: int
    key: str = ""
    field: str = ""

    def sentence(self) -> str:
        return (
            f"matrix {self.key!r} ({self.dimension}×{self.dimension} {self.dtype}) has trace {self.trace:.17g}: |tr ρ − 1| = "
            f"{self.trace_error:.3g} > {self.tolerance:.3g}; divide it by its trace"
        )


@dataclass(eq=False, kw_only=True)
class RhoNotPsd(SfmError):
    """An eigenvalue is below −epsilon."""

    code = Code.INVALID_ARGUMENT
    reason = "RHO_NOT_PSD"
    min_eigenvalue: float
    epsilon: float
    negative_count: int
    """Eigenvalues below −epsilon."""
    trace: float
    asymmetry: float
    dtype: str
    dimension: int
    key: str = ""
    field: str = ""

    def sentence(self) -> str:
        below = "1 eigenvalue is" if self.negative_count == 1 else f"{self.negative_count} eigenvalues are"
        return (
            f"matrix {self.key!r} ({self.dimension}×{self.dimension} {self.dtype}) is not positive semi-definite: λ_min = "
            f"{self.min_eigenvalue:.6g} < −{self.epsilon:.3g} ({below} below the bound); project it onto the "
            "density matrices (sfm_grpc.client.normalized) or find what made it negative"
        )


@dataclass(eq=False, kw_only=True)
class KindChanged(SfmError):
    """The key was first committed as another kind."""

    code = Code.INVALID_ARGUMENT
    reason = "KIND_CHANGED"
    namespace: str
    key: str
    kind: str
    requested: str
    field: str = ""

    def sentence(self) -> str:
        return f"{self.key!r} in {self.namespace!r} is {self.kind} since its first commit and cannot become {self.requested}; use another key"


@dataclass(eq=False, kw_only=True)
class RequestIdReused(SfmError):
    """The request id was used before, with other content."""

    code = Code.INVALID_ARGUMENT
    reason = "REQUEST_ID_REUSED"
    namespace: str
    reused_id: str
    first_time_us: int
    field: str = "request_id"

    def sentence(self) -> str:
        return (
            f"request id {self.reused_id!r} was used in {self.namespace!r} at {_when(self.first_time_us)} with other content; "
            "a retry must repeat its content, a new request needs a new id"
        )


# ---- what the store holds ------------------------------------------------------------------------------------------


@dataclass(eq=False, kw_only=True)
class VersionConflict(SfmError):
    """`expected_version` is not the namespace's version."""

    code = Code.ABORTED
    reason = "VERSION_CONFLICT"
    namespace: str
    expected: int
    current: int
    committer: str
    commit_time_us: int

    def sentence(self) -> str:
        if self.current == 0:
            return f"{self.namespace!r} was never committed to (version 0), not at version {self.expected}; commit with expected_version 0"
        by = f" by {self.committer!r}" if self.committer else ""
        return (
            f"{self.namespace!r} is at version {self.current} (committed{by} at {_when(self.commit_time_us)}), not {self.expected}; "
            "read it again and decide again"
        )


@dataclass(eq=False, kw_only=True)
class NotFound(SfmError):
    """The namespace, keys or version do not exist, or are another tenant's."""

    code = Code.NOT_FOUND
    reason = "NOT_FOUND"
    what: str
    """`namespace`, `key`, `version` or `valid version`."""
    namespace: str
    names: tuple[str, ...] = ()
    current: int = 0

    def sentence(self) -> str:
        if self.what == "namespace":
            return f"namespace {self.namespace!r} does not exist; its first commit creates it (expected_version 0)"
        if self.what == "valid version":
            return f"{self.namespace!r} keeps no version that is valid and whole; commit a valid one"
        return f"{self.what} {_names(self.names)} not found in {self.namespace!r} (version {self.current})"


@dataclass(eq=False, kw_only=True)
class VersionNotReached(SfmError):
    """`min_version` is above the newest version."""

    code = Code.FAILED_PRECONDITION
    reason = "VERSION_NOT_REACHED"
    namespace: str
    min_version: int
    current: int

    def sentence(self) -> str:
        return f"{self.namespace!r} is at version {self.current} and has not reached version {self.min_version}"


@dataclass(eq=False, kw_only=True)
class StepTooLarge(SfmError):
    """‖Δρ‖_F is over the caller's or the server's bound."""

    code = Code.FAILED_PRECONDITION
    reason = "STEP_TOO_LARGE"
    namespace: str
    key: str
    step: float
    bound: float

    def sentence(self) -> str:
        return f"{self.key!r} in {self.namespace!r} would move by ‖Δ‖_F = {self.step:.6g} > {self.bound:.6g}; raise max_step or take a smaller step"


@dataclass(eq=False, kw_only=True)
class VersionCompacted(SfmError):
    """The version is no longer kept."""

    code = Code.OUT_OF_RANGE
    reason = "VERSION_COMPACTED"
    namespace: str
    version: int
    oldest: int
    current: int

    def sentence(self) -> str:
        return f"version {self.version} of {self.namespace!r} is no longer kept: the oldest is {self.oldest}, the newest {self.current}"


@dataclass(eq=False, kw_only=True)
class RhoCorrupt(SfmError):
    """Stored numbers fail their digest, or what is stored with them cannot be read."""

    code = Code.DATA_LOSS
    reason = "RHO_CORRUPT"
    namespace: str
    version: int
    key: str
    expected_digest: str
    found_digest: str
    damaged: str = "numbers"
    """`numbers`, `certificate` (the numbers are what was put), or `version` (its record; `key` and digests are empty)."""

    def sentence(self) -> str:
        if self.damaged == "version":
            return f"the stored record of {self.namespace!r} version {self.version} cannot be read; restore LAST_VALID"
        if self.damaged == "certificate":
            return (
                f"the stored certificate of {self.key!r} in {self.namespace!r} version {self.version} is damaged, its numbers are not "
                f"(SHA-256 {self.found_digest[:16]}…); restore LAST_VALID, or commit them again"
            )
        return (
            f"the stored numbers of {self.key!r} in {self.namespace!r} version {self.version} fail their digest (SHA-256 {self.found_digest[:16]}…, "
            f"certified {self.expected_digest[:16]}…); restore LAST_VALID"
        )


# ---- what the server can do just now -------------------------------------------------------------------------------


@dataclass(eq=False, kw_only=True)
class Overloaded(SfmError):
    """Too much is in flight; the same call will succeed a little later."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"
    limit: str
    value: int
    maximum: int
    retry_after_s: float = 0.1

    def sentence(self) -> str:
        return f"overloaded: {self.limit} is at {self.value} of {self.maximum}; retry in {self.retry_after_s:g} s"


@dataclass(eq=False, kw_only=True)
class LimitExceeded(SfmError):
    """Over a published limit that no retry will change."""

    code = Code.RESOURCE_EXHAUSTED
    reason = "LIMIT_EXCEEDED"
    limit: str
    value: int
    maximum: int
    field: str = ""

    def sentence(self) -> str:
        return f"{self.limit} is {self.maximum}, this has {self.value} (GetServerInfo lists the limits)"


@dataclass(eq=False, kw_only=True)
class StoreUnavailable(SfmError):
    """The canonical store cannot be reached, or cannot write."""

    code = Code.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"
    problem: str
    outcome_unknown: bool = False
    retry_after_s: float = 1.0

    def sentence(self) -> str:
        unknown = "; the commit may have happened: retry with the same request id to find out" if self.outcome_unknown else ""
        return f"the store is not available: {self.problem}{unknown}"


class StoreRefused(StoreUnavailable):
    """The store cannot be served from until a person acts: it is misconfigured, unsafe, or another release's.

    A server that finds so when it starts ends; to callers it is a StoreUnavailable.
    """


@dataclass(eq=False, kw_only=True)
class Draining(SfmError):
    """The server is about to stop."""

    code = Code.UNAVAILABLE
    reason = "DRAINING"
    retry_after_s: float = 1.0

    def sentence(self) -> str:
        return "the server is draining; another replica, or this one soon, will answer"


@dataclass(eq=False, kw_only=True)
class DeadlineExceeded(SfmError):
    """The call's time ran out."""

    code = Code.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"
    deadline_ms: int = 0

    def sentence(self) -> str:
        return (
            f"not done within {self.deadline_ms} ms; a commit may still have happened: retry with the same request id to find out"
        )


@dataclass(eq=False, kw_only=True)
class InternalError(SfmError):
    """A defect of the server. The cause is in its log, under the request id."""

    code = Code.INTERNAL
    reason = "INTERNAL"
    request_id: str

    def sentence(self) -> str:
        return f"internal error; the server's log has it under request id {self.request_id}"


@dataclass(eq=False, kw_only=True)
class Unreachable(SfmError):
    """No server answered. Raised by the client only: nothing came back that could carry facts."""

    code = Code.UNAVAILABLE
    reason = ""
    target: str
    problem: str

    def sentence(self) -> str:
        return f"no answer from {self.target}: {self.problem}"


@dataclass(eq=False, kw_only=True)
class UnexpectedStatus(SfmError):
    """A status without our ErrorInfo: from a proxy, an interceptor of others, or gRPC itself. Raised by the client only."""

    code = Code.INTERNAL
    reason = ""
    status: str
    problem: str

    def sentence(self) -> str:
        return f"{self.status}: {self.problem}"


BY_REASON: Mapping[str, type[SfmError]] = {c.reason: c for c in SfmError.__subclasses__() if c.reason}
"""The class of each reason; the proto's ErrorReason lists the same names."""
