"""What the engine is told: `SFM_POSTGRES_*`, in the engine's own words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PostgresOptions:
    """How to reach Postgres and how long to wait for it."""

    url: str
    """`postgresql://user:password@host:port/database`, or any conninfo of libpq."""
    node: str = "sfm"
    """Who is connected: part of application_name."""
    pool_min: int = 2
    """Connections that are kept open."""
    pool_max: int = 16
    """Connections at most, besides the one that only checks."""
    pool_wait_s: float = 1.0
    """How long a call waits for a connection."""
    pool_waiting_max: int = 256
    """Calls that may wait for a connection at once."""
    connect_timeout_s: float = 5.0
    """How long connecting may take."""
    statement_timeout_s: float = 10.0
    """How long one statement may take; Postgres itself undoes it then."""
    lock_timeout_s: float = 5.0
    """How long a commit may wait for its namespace's row."""
    migrate: bool = False
    """Bring the schema up to date when opening."""
    allow_unsafe_durability: bool = False
    """Serve from a server that may lose what it acknowledged."""
