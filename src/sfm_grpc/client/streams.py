"""What `watch`, `follow` and `tail_events` answer, blocking and asyncio: drivers perform the flows of `watching` and `events`."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sfm_grpc.client.commits import Keys
from sfm_grpc.client.events import Event, Tailing
from sfm_grpc.client.records import Snapshot, WatchedSnapshot, moment
from sfm_grpc.client.watching import Following, Watching
from sfm_grpc.errors import DeadlineExceeded, SfmError

if TYPE_CHECKING:
    from sfm_grpc.client import aio, sync
    from sfm_grpc.client.flows import Flows

# How long closing a follower waits for its thread, which may be on its way to a server that does not answer.
_JOIN_S = 1.0


class _Watched:
    """What both kinds of watches say."""

    def __init__(self, watching: Watching) -> None:
        self._watching = watching

    @property
    def as_of_time(self) -> datetime | None:
        """A time, by the server's clock, at which nothing was newer than what has arrived; None: not yet known."""
        time_us = self._watching.as_of_time_us
        return moment(time_us) if time_us else None


class Watch(_Watched, Iterator[WatchedSnapshot]):
    """Versions as they are made; iterating waits for the next. Open until it is closed, or left as a context manager."""

    def __init__(self, watching: Watching, driver: sync.Driver) -> None:
        super().__init__(watching)
        self._driver = driver

    def __next__(self) -> WatchedSnapshot:
        return self._driver.run(self._watching.next())

    def close(self) -> None:
        """Ends the stream. Any thread may: one that waits for the next version is told UnexpectedStatus (CANCELLED)."""
        self._watching.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncWatch(_Watched, AsyncIterator[WatchedSnapshot]):
    """The same to be iterated with `async for`."""

    def __init__(self, watching: Watching, driver: aio.Driver) -> None:
        super().__init__(watching)
        self._driver = driver

    async def __anext__(self) -> WatchedSnapshot:
        return await self._driver.run(self._watching.next())

    async def close(self) -> None:
        """Ends the stream."""
        self._watching.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


class EventTail(Iterator[Event]):
    """Events, oldest first; iterating waits for the next where it follows. Open until closed, or left as a context manager."""

    def __init__(self, tailing: Tailing, driver: sync.Driver) -> None:
        self._tailing = tailing
        self._driver = driver

    def __next__(self) -> Event:
        event = self._driver.run(self._tailing.next())
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """Ends the stream. Any thread may: one that waits for the next event is told UnexpectedStatus (CANCELLED)."""
        self._tailing.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class AsyncEventTail(AsyncIterator[Event]):
    """The same to be iterated with `async for`."""

    def __init__(self, tailing: Tailing, driver: aio.Driver) -> None:
        self._tailing = tailing
        self._driver = driver

    async def __anext__(self) -> Event:
        event = await self._driver.run(self._tailing.next())
        if event is None:
            raise StopAsyncIteration
        return event

    async def close(self) -> None:
        """Ends the stream."""
        self._tailing.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


class _Follower:
    """What both kinds of followers say, without asking anyone."""

    _following: Following

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._ended: Exception | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot that has arrived, version 0 and empty where the namespace does not exist. Never an older one than
        before, unless the server's history was replaced by an older one. Keys that it does not hold are absent in it.

        Raises what ended the follower, if anything did.
        """
        if self._ended is not None:
            raise self._ended
        if self._following.snapshot is None:
            raise RuntimeError("nothing has arrived yet: a follower is a context manager, and waits for it on entering")
        return self._following.snapshot

    @property
    def as_of_time(self) -> datetime:
        """A time, by the server's clock, at which nothing was newer than `snapshot`."""
        return moment(self._following.as_of_time_us)

    @property
    def age_s(self) -> float:
        """How long ago that was, by this machine's clock: seconds that grow while the server, or its store, is away."""
        return max(0.0, time.time() - self._following.as_of_time_us / 1e6)

    @property
    def problem(self) -> SfmError | None:
        """Why nothing arrives just now; None while the server is there. It tries again by itself."""
        return self._following.problem

    def _has(self, min_version: int) -> bool:
        """Whether waiting for `min_version` is over."""
        found = self._following.snapshot
        return self._ended is not None or (found is not None and found.version >= min_version)


class Follower(_Follower):
    """Keeps a namespace's newest snapshot at hand, in a daemon thread, from entering it to leaving it."""

    def __init__(
        self,
        flows: Flows,
        namespace: str,
        keys: Keys,
        driver: sync.Driver,
        *,
        bookmark_interval_s: float | None,
        timeout_s: float | None,
    ) -> None:
        super().__init__(flows.timeout_s if timeout_s is None else timeout_s)
        self._driver = driver
        self._arrived = threading.Condition()
        self._stop = threading.Event()
        self._following = Following(
            flows.kept, namespace, keys, bookmark_interval_s=bookmark_interval_s, tell=self._tell, pause=self._stop.wait
        )
        self._thread = threading.Thread(target=self._run, name=f"follow {namespace}", daemon=True)

    def _run(self) -> None:
        try:
            self._driver.run(self._following.run())
        except Exception as error:
            self._ended = error
        self._tell()

    def _tell(self) -> None:
        with self._arrived:
            self._arrived.notify_all()

    def wait(self, min_version: int, timeout_s: float | None = None) -> Snapshot:
        """The snapshot, once it is at least this version. `timeout_s` None: for as long as it takes. Raises DeadlineExceeded."""
        with self._arrived:
            reached = self._arrived.wait_for(lambda: self._has(min_version), timeout_s)
        if not reached:
            raise self._following.problem or DeadlineExceeded(deadline_ms=round((timeout_s or 0.0) * 1000))
        return self.snapshot

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.wait(0, self._timeout_s)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends it. What has arrived stays."""
        self._stop.set()
        self._following.close()
        self._thread.join(_JOIN_S)


class AsyncFollower(_Follower):
    """The same in a task of the running loop."""

    def __init__(
        self,
        flows: Flows,
        namespace: str,
        keys: Keys,
        driver: aio.Driver,
        *,
        bookmark_interval_s: float | None,
        timeout_s: float | None,
    ) -> None:
        super().__init__(flows.timeout_s if timeout_s is None else timeout_s)
        self._driver = driver
        self._arrived = asyncio.Event()
        self._following = Following(
            flows.kept, namespace, keys, bookmark_interval_s=bookmark_interval_s, tell=self._tell, pause=asyncio.sleep
        )
        self._task: asyncio.Task[None] | None = None

    async def _run(self) -> None:
        try:
            await self._driver.run(self._following.run())
        except Exception as error:
            self._ended = error
        self._tell()

    def _tell(self) -> None:
        self._arrived.set()
        self._arrived = asyncio.Event()

    async def wait(self, min_version: int, timeout_s: float | None = None) -> Snapshot:
        """The snapshot, once it is at least this version. `timeout_s` None: for as long as it takes. Raises DeadlineExceeded."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._has(min_version):
                    await self._arrived.wait()
        except TimeoutError:
            raise self._following.problem or DeadlineExceeded(deadline_ms=round((timeout_s or 0.0) * 1000)) from None
        return self.snapshot

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        try:
            await self.wait(0, self._timeout_s)
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends it. What has arrived stays."""
        self._following.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
