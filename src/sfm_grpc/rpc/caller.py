"""Who is calling: until credentials name the tenant, metadata does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias, cast

from grpc.aio import ServicerContext

from sfm_grpc.coordinator.names import check_name
from sfm_grpc.model import Scope

TENANT_KEY = "x-soma-tenant"
CLIENT_KEY = "x-soma-client"
REQUEST_ID_KEY = "x-request-id"
TENANT_DEFAULT = "default"


Context: TypeAlias = ServicerContext[Any, Any]


def metadata_value(context: Context, wanted: str) -> str:
    """The first value of a metadata key, '' when there is none."""
    for key, value in cast("Iterable[tuple[str, str | bytes]]", context.invocation_metadata()):
        if key == wanted:
            return str(value)
    return ""


def remaining_of(context: Context) -> float | None:
    """Seconds until the caller's deadline; None when it gave none (the stubs leave that out)."""
    return cast("float | None", context.time_remaining())


def tenant_of(context: Context) -> str:
    """The caller's tenant, as it is said."""
    return metadata_value(context, TENANT_KEY) or TENANT_DEFAULT


def scope_of(context: Context, namespace: str) -> Scope:
    """The caller's tenant and the namespace it names. Raises InvalidRequest."""
    tenant = tenant_of(context)
    check_name(tenant, TENANT_KEY)
    return Scope(tenant, namespace)


def committer_of(context: Context) -> str:
    """The name the caller gives itself. Raises InvalidRequest."""
    name = metadata_value(context, CLIENT_KEY)
    if name:
        check_name(name, CLIENT_KEY)
    return name
