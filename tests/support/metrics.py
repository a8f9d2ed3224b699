"""Prometheus text, read as Prometheus would."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.servers import Server

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


async def samples(server: Server) -> Samples:
    """Every sample of /metrics, by name and labels."""
    return await samples_at(server.app.http_address)


async def samples_at(http_address: str) -> Samples:
    """The same of a server that is known by its HTTP address."""
    async with httpx.AsyncClient(timeout=60) as client:
        response = await client.get(f"http://{http_address}/metrics")
    assert response.status_code == 200
    families = text_string_to_metric_families(response.text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


async def sample(server: Server, name: str, **labels: str) -> float:
    """One sample."""
    return (await samples(server))[name, frozenset(labels.items())]
