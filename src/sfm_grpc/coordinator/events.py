"""The events of ρ, as they lie in the outbox."""

from __future__ import annotations

from collections.abc import Sequence

from sfm_grpc.model import Certificate, Event, Kind, Scope

RHO_STATUS = "rho.status"


def rho_status(node_id: str, scope: Scope, now_us: int, certificates: Sequence[Certificate]) -> Event:
    """`rho.status` of one commit: the truth about the density matrices it put. The engine adds the version."""
    density = [c for c in certificates if c.kind is Kind.DENSITY]
    return Event(
        RHO_STATUS,
        {
            "timestamp": now_us / 1e6,
            "node_id": node_id,
            "tenant": scope.tenant,
            "namespace": scope.namespace,
            "psd_ok": all(c.psd_ok for c in density),
            "trace_ok": all(c.trace_ok for c in density),
            "trace_error": max((c.trace_error for c in density), default=0.0),
            "clamped": any(c.clamped for c in density),
        },
    )
