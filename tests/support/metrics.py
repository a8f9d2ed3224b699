"""Prometheus text, read as Prometheus would."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from tests.support.servers import Server

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


async def samples(server: Server) -> Samples:
    """Every sample of /metrics, by name and labels."""
    response = await server.http("/metrics")
    assert response.status_code == 200
    families = text_string_to_metric_families(response.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


async def sample(server: Server, name: str, **labels: str) -> float:
    """One sample."""
    return (await samples(server))[name, frozenset(labels.items())]
