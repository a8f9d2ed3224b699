"""The production store: Postgres, through psycopg's asynchronous pool."""

from sfm_grpc.storage.postgres.engine import PostgresStore
from sfm_grpc.storage.postgres.options import PostgresOptions

__all__ = ["PostgresOptions", "PostgresStore"]
