"""From our errors to gRPC's: one table, one google.rpc.Status with one ErrorInfo."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from sfm_grpc.errors import DOMAIN, Code, SfmError

STATUS: Mapping[Code, grpc.StatusCode] = {code: grpc.StatusCode[code.value] for code in Code}

DETAILS_KEY = "grpc-status-details-bin"


def code_of(error: SfmError) -> grpc.StatusCode:
    """The status code of an error."""
    return STATUS[error.code]


def status_of(error: SfmError) -> status_pb2.Status:
    """The error as google.rpc.Status: ErrorInfo always, BadRequest where a field is to blame, RetryInfo where waiting helps."""
    value: int = code_of(error).value[0]
    status = status_pb2.Status(code=value, message=error.sentence())
    _add(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.facts()))
    if error.field_path and error.code is Code.INVALID_ARGUMENT:
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field_path, description=error.sentence())
        _add(status, error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_delay_s is not None:
        delay = Duration()
        delay.FromNanoseconds(int(error.retry_delay_s * 1e9))
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _add(status: status_pb2.Status, detail: object) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)  # type: ignore[arg-type]
    status.details.append(packed)
