"""Who is calling: until credentials name the tenant, metadata does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias, cast

from grpc.aio import ServicerContext

from sfm_grpc.coordinator.memories import MemoryMutation
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


class Mutating(Protocol):
    """What every request that writes memories has."""

    @property
    def namespace(self) -> str:
        """Where."""

    @property
    def request_id(self) -> str:
        """By which it is known again."""

    @property
    def validate_only(self) -> bool:
        """Nothing is recorded."""


def mutation_of(method: str, request: Mutating, context: Context, deadline: float) -> MemoryMutation:
    """What a request says besides its changes. Raises InvalidRequest."""
    return MemoryMutation(
        method=method,
        scope=scope_of(context, request.namespace),
        request_id=request.request_id,
        committer=committer_of(context),
        validate_only=request.validate_only,
        deadline=deadline,
    )
