"""What the cache is told: `SFM_REDIS_*` and `SFM_RHO_*`, in the cache's own words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """How to reach Redis and how long to wait for it."""

    url: str
    """`redis://`, `rediss://` (TLS), `unix://`, `redis+cluster://`, `redis+sentinel://host:port,…/service`; see `connection`."""
    prefix: str = "sfm"
    """Every key begins with it."""
    node: str = "sfm"
    """Who is connected: its name in CLIENT LIST."""
    timeout_s: float = 0.02
    """How long a read waits for an answer."""
    fence_timeout_s: float = 0.1
    """How long one try to fence may take."""
    content_timeout_s: float = 2.0
    """How long moving numbers may take."""
    connect_timeout_s: float = 1.0
    """How long connecting may take where nobody waits for it."""
    content_ttl_s: float = 3600.0
    """How long unread content stays: hygiene, never correctness."""
    settle_s: float = 5.0
    """How long it must have answered before it is registered."""
    connections_max: int = 32
    """Connections for checks at most, and as many for numbers."""
