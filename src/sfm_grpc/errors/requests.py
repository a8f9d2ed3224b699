"""What the caller sent."""

from __future__ import annotations

from dataclasses import dataclass

from sfm_grpc.errors.base import Code, SfmError, when


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
            f"request id {self.reused_id!r} was used in {self.namespace!r} at {when(self.first_time_us)} with other content; "
            "a retry must repeat its content, a new request needs a new id"
        )
