"""grpc.health.v1: the names probes and load balancers ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer as AsyncHealthServicer

from sfm_grpc.rpc.caller import Context

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class ProbeServicer(AsyncHealthServicer):
    """`liveness` is the process; `readiness`, `""` and each service follow the store; `rho` follows ρ alone.

    A wrong ρ must not fail readiness: ρ is shared, every replica would go at once.
    """

    def __init__(self, services: Sequence[str]) -> None:
        super().__init__()
        self._ready_names = ("", "readiness", *services)
        self._server_status = dict.fromkeys((*self._ready_names, "startup", "rho"), NOT_SERVING) | {"liveness": SERVING}

    async def set_ready(self, ready: bool) -> None:
        """Readiness, and with it every service."""
        for name in self._ready_names:
            await self._change(name, ready)

    async def set_started(self) -> None:
        """The ports are open. A store that is away is waited for: starting again would not bring it."""
        await self._change("startup", True)

    async def set_rho(self, ok: bool) -> None:
        """Whether every ρ is as it must be."""
        await self._change("rho", ok)

    async def _change(self, name: str, serving: bool) -> None:
        status = SERVING if serving else NOT_SERVING
        if self._server_status[name] != status:
            await self.set(name, status)

    async def List(self, _request: Any, _context: Context) -> Any:  # noqa: N802  the stubs are older than this RPC
        """All names and their states."""
        statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._server_status.items()}
        return health_pb2.HealthListResponse(statuses=statuses)  # type: ignore[attr-defined]
