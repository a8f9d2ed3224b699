"""A failed call taken apart: what any client can know of it."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from sfm_grpc.errors import BY_REASON, DOMAIN, SfmError

_DETAILS = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class Refusal:
    """google.rpc.Status and its details."""

    code: grpc.StatusCode
    message: str
    reason: str
    facts: Mapping[str, str]
    fields: tuple[str, ...]
    """Of the field violations."""
    retry_delay_s: float | None
    request_id: str

    @property
    def error(self) -> SfmError:
        """The error that the server raised, rebuilt from its facts."""
        return BY_REASON[self.reason].from_facts(self.facts)


def is_refusal(error: Any) -> bool:
    """A server of ours has answered; else gRPC says by itself that none did."""
    return _DETAILS in dict(error.trailing_metadata() or ())


def refusal_of(error: Any) -> Refusal:
    """Takes an RpcError apart, and checks that it is put together as docs promise: one ErrorInfo, one domain, one code."""
    assert is_refusal(error), f"no google.rpc.Status: {error}"
    metadata = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(metadata[_DETAILS])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    infos = _details(status, error_details_pb2.ErrorInfo)
    assert [info.domain for info in infos] == [DOMAIN]
    violations = [v.field for bad in _details(status, error_details_pb2.BadRequest) for v in bad.field_violations]
    retry = _details(status, error_details_pb2.RetryInfo)
    return Refusal(
        code=error.code(),
        message=status.message,
        reason=infos[0].reason,
        facts=dict(infos[0].metadata),
        fields=tuple(violations),
        retry_delay_s=retry[0].retry_delay.ToTimedelta().total_seconds() if retry else None,
        request_id=str(metadata.get("x-request-id", "")),
    )


def _details(status: status_pb2.Status, kind: type[Any]) -> list[Any]:
    found = []
    for packed in status.details:
        message = kind()
        if packed.Unpack(message):
            found.append(message)
    return found


async def refused(call: Awaitable[object]) -> Refusal:
    """The refusal that a call must end in."""
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return refusal_of(caught.value)


async def outcome(call: Awaitable[Any]) -> Any:
    """The answer, or the error that the server told, or None where no server answered: then nobody knows."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE and "grpc-status-details-bin" not in dict(error.trailing_metadata() or ()):
            return None
        return refusal_of(error).error
