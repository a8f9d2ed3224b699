"""Watching a namespace through either door, in the same words."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.duration_pb2 import Duration
from sfm.v1 import rho_store_pb2, rho_store_pb2_grpc

from sfm_grpc.coordinator.watches import Bookmark, Watch
from sfm_grpc.model import Scope
from tests.support.drivers import Driver, Held, InProcess, OverGrpc, held_of, us_of
from tests.support.refusals import refusal_of

_WAIT_S = 20


@dataclass(frozen=True, slots=True)
class Told:
    """A version, or a bookmark."""

    version: int
    bookmark: bool
    as_of_us: int
    time_us: int = 0
    committer: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    changed_keys: tuple[str, ...] = ()
    restored_version: int = 0
    valid: bool = False
    matrices: Mapping[str, Held] = field(default_factory=dict)


class Watcher:
    """A stream that is open as long as it lasts. What it is not asked for, it does not take."""

    def __init__(self, stream: AsyncIterator[Told]) -> None:
        self._stream = stream
        self.bookmarks: list[Told] = []
        """Those that went by."""

    async def told(self) -> Told:
        """The next one, whatever it is."""
        return await asyncio.wait_for(anext(self._stream), _WAIT_S)

    async def next(self) -> Told:
        """The next version."""
        while (told := await self.told()).bookmark:
            self.bookmarks.append(told)
        return told

    async def take(self, count: int) -> list[Told]:
        """The next versions."""
        return [await self.next() for _ in range(count)]

    async def numbers(self, count: int) -> list[int]:
        """Which versions come next."""
        return [told.version for told in await self.take(count)]

    async def bookmark(self) -> Told:
        """The next one, which is a bookmark."""
        told = await self.told()
        assert told.bookmark, told
        return told

    async def close(self) -> None:
        """Ends it."""
        await self._stream.aclose()  # type: ignore[attr-defined]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


def watch(driver: Driver, namespace: str = "n", *keys: str, tenant: str = "default", numbers: bool = True, **how: Any) -> Watcher:
    """Watches through the driver's door. `how`: after_version, newest_only, bookmark_interval_s."""
    if isinstance(driver, InProcess):
        asked = Watch(Scope(tenant, namespace), keys, numbers=numbers, **how)
        return Watcher(_in_process(driver, asked))
    assert isinstance(driver, OverGrpc)
    return watch_channel(driver.channel, namespace, *keys, tenant=tenant, numbers=numbers, **how)


def watch_channel(
    channel: grpc.aio.Channel,
    namespace: str = "n",
    *keys: str,
    tenant: str = "default",
    numbers: bool = True,
    bookmark_interval_s: float | None = None,
    **how: Any,
) -> Watcher:
    """Watches over a channel."""
    view = rho_store_pb2.VIEW_FULL if numbers else rho_store_pb2.VIEW_UNSPECIFIED
    request = rho_store_pb2.WatchRhoRequest(namespace=namespace, keys=keys, view=view, **how)
    if bookmark_interval_s is not None:
        interval = Duration()
        interval.FromMicroseconds(round(bookmark_interval_s * 1e6))
        request.bookmark_interval.CopyFrom(interval)
    return Watcher(_over_grpc(channel, request, tenant))


async def _in_process(driver: InProcess, asked: Watch) -> AsyncIterator[Told]:
    async with contextlib.aclosing(driver.app.watches.follow(asked)) as stream:
        async for told in stream:
            if isinstance(told, Bookmark):
                yield Told(told.version, True, told.as_of_us)
                continue
            v, found = told.version, told.version.chosen(asked.keys)
            matrices = {
                e.key: Held(e.certificate, e.put_version, bytes(told.numbers[e.certificate.digest]) if asked.numbers else None)
                for e in found
            }
            said = (v.commit_time_us, v.committer, dict(v.metadata), v.changed_keys, v.restored_version, v.valid)
            yield Told(v.version, False, told.as_of_us, *said, matrices)


async def _over_grpc(channel: grpc.aio.Channel, request: rho_store_pb2.WatchRhoRequest, tenant: str) -> AsyncIterator[Told]:
    call: Any = rho_store_pb2_grpc.RhoStoreStub(channel).WatchRho(request, metadata=[("x-soma-tenant", tenant)])  # type: ignore[no-untyped-call]
    try:
        # `read` takes one message at a time; iterating would be the same.
        while (m := await call.read()) is not grpc.aio.EOF:
            said = (us_of(m.commit_time), m.committer, dict(m.metadata), tuple(m.changed_keys), m.restored_version, m.valid)
            yield Told(m.version, m.bookmark, us_of(m.as_of_time), *said, {n.key: held_of(n) for n in m.matrices})
    except grpc.aio.AioRpcError as error:
        if "grpc-status-details-bin" not in dict(error.trailing_metadata() or ()):
            raise
        raise refusal_of(error).error from error
    finally:
        call.cancel()
