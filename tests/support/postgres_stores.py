"""The Postgres engine on its own, for tests that need no server around it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from prometheus_client import CollectorRegistry

from sfm_grpc.errors import StoreUnavailable
from sfm_grpc.metrics import StoreMetrics
from sfm_grpc.model import CommitResult, PutMatrix, Transaction
from sfm_grpc.storage.postgres import PostgresOptions, PostgresStore
from tests.support.matrices import density
from tests.support.transactions import putting


@contextlib.asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[PostgresStore]:
    """An engine, as long as it lasts."""
    told = PostgresOptions(url, **{"pool_min": 1, "pool_max": 4} | options)
    store = PostgresStore(told, StoreMetrics(CollectorRegistry()), keys_per_namespace_max=256)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def rho(seed: int = 0) -> PutMatrix:
    """A change that puts a density matrix."""
    return putting("rho", density(seed=seed))


async def committed(store: PostgresStore, transaction: Transaction) -> CommitResult | None:
    """What a commit is answered; None while the store is not available."""
    try:
        return await store.commit(transaction)
    except StoreUnavailable:
        return None
