"""The one write path: every mutation is a transaction that goes through here and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sfm_grpc.coordinator.fences import Fences
from sfm_grpc.errors import SfmError
from sfm_grpc.model import CommitResult, Scope, Transaction, Version
from sfm_grpc.storage.contract import Store
from sfm_grpc.storage.leases import Planted

Listener = Callable[[Scope, Version, Transaction], None]


class CommitPath:
    """Executes transactions and tells what was committed. The commit point is the engine's; what follows may fail."""

    def __init__(self, store: Store, fences: Fences | None = None) -> None:
        """`fences`: where a cache may stand before the store."""
        self._store = store
        self._fences = fences
        self._listeners: list[Listener] = []
        self._writes_heard: list[Callable[[], None]] = []
        self._under_way: set[asyncio.Task[CommitResult]] = set()

    def on_written(self, listener: Callable[[], None]) -> None:
        """Calls `listener` after each write of memories. It must not wait nor raise."""
        self._writes_heard.append(listener)

    def on_committed(self, listener: Listener) -> None:
        """Calls `listener` with each version that was made, before the caller is answered. It must not wait nor raise."""
        self._listeners.append(listener)

    async def plant(self, scope: Scope, expected: int) -> Planted | None:
        """Announces a commit to the cache, before it is examined; None where there is none, or it does not answer."""
        return await self._fences.plant(scope, expected) if self._fences else None

    async def commit(self, transaction: Transaction, planted: Planted | None = None) -> CommitResult:
        """Executes a transaction; see `storage.contract.Store.commit` for what it raises.

        Returns, or raises what names a version, when nobody can read an older one any more. With what was `planted` before, the
        version that is made may be read from the cache at once.

        A caller that gives up does not undo what is under way: it runs to its end and is told to the listeners all the same.
        """
        task = asyncio.create_task(self._execute(transaction, planted))
        self._under_way.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def _execute(self, transaction: Transaction, planted: Planted | None) -> CommitResult:
        if self._fences is None or not transaction.is_about_matrices:
            result = await self._store.commit(transaction)
            self._tell_listeners(transaction, result)
            return result
        self._fences.stage(transaction)
        try:
            result = await self._store.commit(transaction)
        except SfmError as error:
            await self._fences.tell_refusal(transaction.scope, error)
            raise
        self._tell_listeners(transaction, result)
        await self._fences.tell(transaction.scope, _told(result), result.seen, planted=planted, version=result.version)
        return result

    def _tell_listeners(self, transaction: Transaction, result: CommitResult) -> None:
        if result.version is not None:
            for listener in self._listeners:
                listener(transaction.scope, result.version, transaction)
        if result.memories and not result.replayed:
            for heard in self._writes_heard:
                heard()

    def _done(self, task: asyncio.Task[CommitResult]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone, and is the only one who would care


def _told(result: CommitResult) -> int:
    """The version that a result tells of: a validation's is not made, the one before it is there."""
    return result.number if result.version is not None or result.replayed else result.number - 1
