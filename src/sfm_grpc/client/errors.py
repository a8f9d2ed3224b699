"""From gRPC statuses back to the errors that carry facts. No gRPC exception leaves the client."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from sfm_grpc.errors import BY_REASON, DOMAIN, DeadlineExceeded, LimitExceeded, SfmError, UnexpectedStatus, Unreachable

_DETAILS: Final = "grpc-status-details-bin"
_REQUEST_ID: Final = "x-request-id"
# gRPC's own words, of either side, when a message is over a side's limit.
_TOO_LARGE = re.compile(r"message larger than max \((\d+) vs\. (\d+)\)")
# gRPC's own word for a call that the other side cancelled; what was cancelled here, it says in a sentence.
_BY_PEER = "CANCELLED"


def translated(error: grpc.RpcError, *, target: str, timeout_s: float) -> SfmError:
    """The error that `error` stands for, with the server's request id."""
    # iter: grpc.aio's Metadata has keys() too, which are not its pairs' (grpcio 1.76).
    trailing: dict[str, Any] = dict(iter(cast(Iterable[tuple[str, Any]], error.trailing_metadata() or ())))
    found = _from_details(trailing.get(_DETAILS, b"")) or _from_status(error, target, timeout_s)
    found.request_id = trailing.get(_REQUEST_ID, "") or found.request_id
    return found


def _from_details(details: bytes) -> SfmError | None:
    try:
        status = status_pb2.Status.FromString(details)
        info = error_details_pb2.ErrorInfo()
        for detail in status.details:
            if detail.Unpack(info) and info.domain == DOMAIN and info.reason in BY_REASON:
                return BY_REASON[info.reason].from_facts(info.metadata)
    except (DecodeError, ValueError, TypeError):
        # Another release's facts, or a proxy that cut them: the status itself is still true.
        return None
    return None


def _from_status(error: grpc.RpcError, target: str, timeout_s: float) -> SfmError:
    code, problem = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unreachable(target=target, problem=problem)
    if code is grpc.StatusCode.CANCELLED and problem == _BY_PEER:
        return Unreachable(target=target, problem="the server ended the call, as one that stops does")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(deadline_ms=round(timeout_s * 1000))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and (sizes := _TOO_LARGE.search(problem)):
        return LimitExceeded(limit="message_bytes_max", value=int(sizes[1]), maximum=int(sizes[2]))
    return UnexpectedStatus(status=code.name if code else "UNKNOWN", problem=problem)
