"""/healthz, /livez, /readyz, /metrics and the status page. Each answers from what is known; none waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from sfm_grpc.coordinator.report import Latency, Report
from sfm_grpc.http.page import render
from sfm_grpc.version import __version__


def build(
    report: Callable[[], Report], registry: CollectorRegistry, before_scrape: Callable[[], None], address: str
) -> Starlette:
    """The application. `address` is the gRPC port's, for the page; `before_scrape` brings gauges up to date."""

    async def healthz(_request: Request) -> Response:
        found = report()
        return _json(_health(found), 200 if found.ok else 503)

    async def livez(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        found = report()
        why = "; ".join(f"{c.name}: {c.detail}" for c in found.components if not c.ok) or "draining"
        return PlainTextResponse("ok\n") if found.ready else PlainTextResponse(f"not ready: {why}\n", 503)

    async def metrics(request: Request) -> Response:
        before_scrape()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type)

    async def page(_request: Request) -> Response:
        return HTMLResponse(render(report(), address))

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/", page),
        ]
    )


def _json(value: object, status: int) -> Response:
    return Response(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE), status, media_type="application/json")


def _health(found: Report) -> dict[str, Any]:
    """Both shapes the predecessor's probes know: flat, and under `rho`."""
    rho = found.rho
    return {
        "ok": found.ok,
        "psd_ok": rho.psd_ok,
        "trace_error": rho.trace_error,
        "rho": {"psd_ok": rho.psd_ok, "trace_error": rho.trace_error, "sample_version": rho.sample_version},
        "ready": found.ready,
        "degraded": found.degraded,
        "namespaces": rho.namespaces,
        "corrupt": rho.corrupt,
        "problems": [
            {"tenant": s.scope.tenant, "namespace": s.scope.namespace, "version": s.version.version, "problem": s.problem}
            for s in rho.worst
            if not s.ok
        ],
        "components": {c.name: {"ok": c.ok, "detail": c.detail} for c in found.components},
        "latency": {t.operation: _latency(t) for t in found.latencies},
        "verifications": found.verifications,
        "version": __version__,
    }


def _latency(found: Latency) -> dict[str, object]:
    return {"p95_ms": found.p95_s * 1000, "count": found.count, "bound_ms": found.bound_s * 1000, "ok": found.ok}
