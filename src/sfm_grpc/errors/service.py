"""What the server can do just now."""

from __future__ import annotations

from dataclasses import dataclass

from sfm_grpc.errors.base import Code, SfmError


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
class IndexUnavailable(SfmError):
    """The vector index cannot be asked. Puts do not need it, and it is brought up to date when it is back."""

    code = Code.UNAVAILABLE
    reason = "INDEX_UNAVAILABLE"
    problem: str
    retry_after_s: float = 1.0

    def sentence(self) -> str:
        return f"the vector index is not available: {self.problem}; memories are kept all the same, and can be read and listed"


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
            f"not done within {self.deadline_ms} ms; a write may still have happened: retry with the same request id to find out"
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
