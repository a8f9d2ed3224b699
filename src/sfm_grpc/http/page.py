"""The status page: plain HTML for a person who opens the HTTP port in a browser."""

from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import UTC, datetime

from sfm_grpc.coordinator.health import RhoState
from sfm_grpc.coordinator.report import Report
from sfm_grpc.version import __version__

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%;margin:1rem 0}
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #ddd}
.ok{color:#17692d}.bad{color:#b00020;font-weight:600}code{background:#f3f3f3;padding:.1rem .3rem}"""
_LINKS = ("/healthz", "/readyz", "/livez", "/metrics")


def render(found: Report, address: str) -> str:
    """The status page: what a person wants to see first, without a script on it."""
    rows = [
        ("Serving", _mark(found.ready, "ready", "not ready")),
        (
            "ρ",
            _mark(found.rho.ok, "every density matrix is valid", f"{found.rho.wrong} namespaces are wrong"),
        ),
        ("Largest trace error", f"{found.rho.trace_error:.3g}"),
        ("Namespaces", str(found.rho.namespaces)),
        ("Re-verified since the start", f"{found.verifications} matrices"),
        *((c.name, _mark(c.ok, html.escape(c.detail), html.escape(c.detail))) for c in found.components),
        *(
            (f"p95 of {t.operation}", _mark(t.ok, *[f"{t.p95_s * 1000:.2f} ms over {t.count} calls"] * 2))
            for t in found.latencies
        ),
        ("Up since", _when(found.start_time_us)),
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>sfm-grpc</title><style>{_STYLE}</style>"
        f"<h1>sfm-grpc {html.escape(__version__)}</h1><p>The memory data plane. gRPC on <code>{html.escape(address)}</code>; "
        f"{' · '.join(f'<a href={path}>{path}</a>' for path in _LINKS)}</p>"
        f"<table>{''.join(f'<tr><th>{name}<td>{value}' for name, value in rows)}</table>{_namespaces(found.shown)}</html>"
    )


def _namespaces(shown: Sequence[RhoState]) -> str:
    if not shown:
        return "<p>No ρ yet.</p>"
    cells = (
        f"<tr><td>{html.escape(s.scope.tenant)}<td>{html.escape(s.scope.namespace)}<td>{s.version.version}"
        f"<td>{_mark(s.ok, 'valid', html.escape(s.problem))}<td>{s.min_eigenvalue_bound:.3g}<td>{s.trace_error:.3g}"
        f"<td>{_when(s.verify_time_us) if s.verify_time_us else 'not yet'}"
        for s in shown
    )
    head = "<tr><th>Tenant<th>Namespace<th>Version<th>ρ<th>λ_min ≥<th>|tr ρ − 1|<th>Re-verified"
    return f"<h2>Namespaces, the worst first</h2><table>{head}{''.join(cells)}</table>"


def _mark(ok: bool, right: str, wrong: str) -> str:
    return f"<span class=ok>{right}</span>" if ok else f"<span class=bad>{wrong}</span>"


def _when(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
