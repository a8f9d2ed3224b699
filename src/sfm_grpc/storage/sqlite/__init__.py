"""The embedded store: one SQLite file, WAL, synchronous FULL."""

from sfm_grpc.storage.sqlite.engine import SqliteStore

__all__ = ["SqliteStore"]
