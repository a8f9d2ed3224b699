"""The peer of memories without vectors: LangGraph's PostgresStore, called in this process, as its users call it.

It has what it takes by default: autocommit, psycopg's pipeline mode, one upsert for a batch of puts and one question for a batch
of gets. No index, no time to live. There is no server before it and no network but the one to Postgres.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from importlib import metadata

from langgraph.store.base import GetOp, PutOp
from langgraph.store.postgres import PostgresStore

from benchmarks.documents import Payload

_NAMESPACE = ("bench", "memories")


class Peer:
    """A store and the calls that are compared."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store

    def put(self, keys: Sequence[str], payloads: Sequence[Payload]) -> None:
        """Puts all of them in one batch."""
        self._store.batch([PutOp(_NAMESPACE, key, payload) for key, payload in zip(keys, payloads, strict=True)])

    def get(self, keys: Sequence[str]) -> list[Payload]:
        """Gets all of them in one batch."""
        found = self._store.batch([GetOp(_NAMESPACE, key) for key in keys])
        return [item.value for item in found]

    def get_one(self, key: str) -> Payload:
        """Gets one by itself."""
        item = self._store.get(_NAMESPACE, key)
        assert item is not None
        return dict(item.value)


@contextlib.contextmanager
def connected(url: str, *, connections: int = 1) -> Iterator[Peer]:
    """A store of its own on the database; `connections` more than one are a pool."""
    pool = {"min_size": connections, "max_size": connections} if connections > 1 else None
    with PostgresStore.from_conn_string(url, pool_config=pool) as store:
        store.setup()
        yield Peer(store)


def version() -> str:
    """What it calls itself."""
    return f"langgraph-checkpoint-postgres {metadata.version('langgraph-checkpoint-postgres')}"
