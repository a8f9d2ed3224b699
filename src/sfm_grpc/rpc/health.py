"""sfm.v1.Health: the whole report, and what this server is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sfm.v1 import health_pb2

from sfm_grpc.coordinator.health import RhoState
from sfm_grpc.coordinator.report import Report
from sfm_grpc.model import Scope
from sfm_grpc.rpc import convert
from sfm_grpc.rpc.caller import Context, scope_of
from sfm_grpc.settings import Settings
from sfm_grpc.version import __version__


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What GetServerInfo says."""

    settings: Settings
    store: str
    index: str
    services: Sequence[str]


class HealthServicer:
    """The RPCs of Health."""

    def __init__(self, report: Callable[[Scope | None], Report], facts: ServerFacts) -> None:
        self._report = report
        self._facts = facts

    async def GetHealth(  # noqa: N802
        self, request: health_pb2.GetHealthRequest, context: Context
    ) -> health_pb2.GetHealthResponse:
        """See health.proto."""
        return health_message(self._report(scope_of(context, request.namespace) if request.namespace else None))

    async def GetServerInfo(  # noqa: N802
        self, _request: health_pb2.GetServerInfoRequest, _context: Context
    ) -> health_pb2.GetServerInfoResponse:
        """See health.proto."""
        settings = self._facts.settings
        return health_pb2.GetServerInfoResponse(
            version=__version__,
            store=self._facts.store,
            index=self._facts.index,
            rho_enforcement=settings.rho_enforcement.value,
            node_id=settings.node,
            limits=[health_pb2.Limit(name=name, value=value) for name, value in settings.limits.items()],
            services=self._facts.services,
            epsilon=settings.rho_epsilon,
            trace_tolerance=settings.rho_trace_tolerance,
        )


def health_message(report: Report) -> health_pb2.GetHealthResponse:
    """A report as its message."""
    return health_pb2.GetHealthResponse(
        ok=report.ok,
        live=True,
        ready=report.ready,
        psd_ok=report.rho.psd_ok,
        trace_ok=report.rho.trace_ok,
        trace_error=report.rho.trace_error,
        degraded=report.degraded,
        sample_version=report.rho.sample_version,
        namespaces=report.rho.namespaces,
        rho=[_rho(state) for state in report.shown],
        components=[health_pb2.ComponentHealth(name=c.name, ok=c.ok, detail=c.detail) for c in report.components],
        latencies=[
            health_pb2.LatencyReport(
                operation=lat.operation,
                p95=convert.duration(lat.p95_s),
                count=lat.count,
                bound=convert.duration(lat.bound_s),
                ok=lat.ok,
                window=convert.duration(lat.window_s),
            )
            for lat in report.latencies
        ],
        start_time=convert.timestamp(report.start_time_us),
        verifications=report.verifications,
    )


def _rho(state: RhoState) -> health_pb2.RhoHealth:
    message = health_pb2.RhoHealth(
        tenant=state.scope.tenant,
        namespace=state.scope.namespace,
        version=state.version.version,
        psd_ok=state.psd_ok,
        trace_error=state.trace_error,
        trace_ok=state.trace_ok,
        min_eigenvalue_bound=state.min_eigenvalue_bound,
        corrupt=state.corrupt,
        problem=state.problem,
    )
    if state.verify_time_us:
        message.verify_time.CopyFrom(convert.timestamp(state.verify_time_us))
    certificates = state.certificates
    if certificates:
        worst = min(certificates, key=lambda c: c.min_eigenvalue_bound)
        message.certificate.CopyFrom(convert.certificate(worst))
    return message
