"""The one write path: every mutation is a transaction that goes through here and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sfm_grpc.model import CommitResult, Scope, Transaction, Version
from sfm_grpc.storage.contract import Store

Listener = Callable[[Scope, Version, Transaction], None]


class CommitPath:
    """Executes transactions and tells what was committed. The commit point is the engine's; what follows may fail."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listeners: list[Listener] = []
        self._under_way: set[asyncio.Task[CommitResult]] = set()

    def on_committed(self, listener: Listener) -> None:
        """Calls `listener` with each version that was made, before the caller is answered. It must not wait nor raise."""
        self._listeners.append(listener)

    async def commit(self, transaction: Transaction) -> CommitResult:
        """Executes a transaction; see `storage.contract.Store.commit` for what it raises.

        A caller that gives up does not undo what is under way: it runs to its end and is told to the listeners all the same.
        """
        task = asyncio.create_task(self._execute(transaction))
        self._under_way.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def _execute(self, transaction: Transaction) -> CommitResult:
        result = await self._store.commit(transaction)
        if result.version is not None:
            for listener in self._listeners:
                listener(transaction.scope, result.version, transaction)
        return result

    def _done(self, task: asyncio.Task[CommitResult]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone, and is the only one who would care
