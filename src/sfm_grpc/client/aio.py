"""The asyncio client. The same methods as in `sync`, awaited; the driver performs the steps on a `grpc.aio.Channel`."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Self, TypeAlias, Unpack, cast

import grpc
import grpc.aio

from sfm_grpc.client import bulk, caches, events, namespaces
from sfm_grpc.client.aio_memories import AsyncMemories
from sfm_grpc.client.aio_prunes import AsyncPrunes
from sfm_grpc.client.caches import CachePage
from sfm_grpc.client.channel import MIB, Endpoint, Tls, default_name
from sfm_grpc.client.commits import (
    Keys,
    Kinds,
    LastValid,
    MaxStep,
    MemoryChanges,
    ReadOptions,
    SingleCommitOptions,
    UpdateOptions,
)
from sfm_grpc.client.errors import translated
from sfm_grpc.client.flows import Flows
from sfm_grpc.client.memory_records import WriteOptions
from sfm_grpc.client.namespaces import CreatedNamespace, DeletedNamespace, DistanceName, NamespaceInfo
from sfm_grpc.client.prune_records import PlanStateName, PrunePlan
from sfm_grpc.client.records import (
    Array,
    Changes,
    Commit,
    Consistency,
    Factor,
    HealthReport,
    Restored,
    RhoVersion,
    ServerInfo,
    Snapshot,
)
from sfm_grpc.client.steps import Call, Converse, Flow, Open, Pause, Receive, Run, Send, Step, T
from sfm_grpc.client.streams import AsyncEventTail, AsyncFollower, AsyncWatch
from sfm_grpc.client.sync import STREAMS
from sfm_grpc.client.watching import Watching, WatchOptions
from sfm_grpc.errors import SfmError, UnexpectedStatus
from sfm_grpc.model import Metadata

Decision: TypeAlias = Changes | Awaitable[Changes | None] | None


class Driver:
    """Performs the steps of flows on the running event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._metadata = grpc.aio.Metadata(*endpoint.metadata)
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Any] = {}
        self._closed = False
        # What is answered is awaited, where it can be.
        self._ways: dict[type[Step], Callable[[Any], Any]] = {
            Call: self._call,
            Open: self._open,
            Converse: self._converse,
            Send: self._send,
            Receive: self._receive,
            Pause: lambda pause: asyncio.sleep(pause.seconds),
            Run: lambda run: run.fn(*run.args),
        }

    async def run(self, flow: Flow[T]) -> T:
        """Performs the flow and answers its result, or raises its error."""
        try:
            step = next(flow)
            while True:
                try:
                    result = await self._perform(step)
                except Exception as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def _perform(self, step: Step) -> Any:
        result = self._ways[type(step)](step)
        return await result if inspect.isawaitable(result) else result

    async def _call(self, call: Call) -> bytes:
        method = self._methods.get(call.method) or self._method(call.method)
        try:
            reply: bytes = await method(
                call.request, timeout=call.timeout_s, metadata=self._metadata, wait_for_ready=self._endpoint.wait_for_ready
            )
        except grpc.RpcError as error:
            failure: SfmError = translated(error, target=self._endpoint.target, timeout_s=call.timeout_s)
        else:
            return reply
        raise failure

    async def _open(self, step: Open) -> Any:
        method = self._methods.get(step.method) or self._method(step.method)
        return method(step.request, timeout=step.timeout_s, metadata=self._metadata, wait_for_ready=self._endpoint.wait_for_ready)

    async def _converse(self, step: Converse) -> Any:
        method = self._methods.get(step.method) or self._method(step.method)
        return method(metadata=self._metadata, wait_for_ready=self._endpoint.wait_for_ready)

    async def _send(self, step: Send) -> None:
        stream: Any = step.stream
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await (stream.done_writing() if step.request is None else stream.write(step.request))

    async def _receive(self, step: Receive) -> bytes | None:
        stream: Any = step.stream
        failure: SfmError
        try:
            reply = await stream.read()
        except grpc.RpcError as error:
            failure = translated(error, target=self._endpoint.target, timeout_s=step.timeout_s or 0.0)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not the task that waits was cancelled, but the stream; gRPC does not tell them apart.
            failure = UnexpectedStatus(status="CANCELLED", problem="the stream was closed")
        else:
            return None if reply is grpc.aio.EOF else cast(bytes, reply)
        raise failure

    def _method(self, name: str) -> Any:
        """The callable of a method, without serializers: bytes go in and out as they are. The first one makes the channel."""
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._channel is None:
            # Not in __init__: a channel belongs to the loop that runs when it is made.
            self._channel = self._connected()
        channel = self._channel
        make: Any = channel.unary_unary
        if name in bulk.CONVERSATIONS:
            make = channel.stream_stream
        elif name in STREAMS:
            make = channel.unary_stream
        return self._methods.setdefault(name, make(name))

    def _connected(self) -> grpc.aio.Channel:
        target, options = self._endpoint.target, self._endpoint.options
        if self._endpoint.tls:
            return grpc.aio.secure_channel(target, self._endpoint.tls.credentials(), options)
        return grpc.aio.insecure_channel(target, options)

    async def close(self) -> None:
        """Ends the channel; calls under way are cancelled."""
        self._closed = True
        self._methods.clear()
        if self._channel is not None:
            await self._channel.close()


class AsyncClient:
    """A connection to the data plane, for one event loop. It connects when first used and again whenever it must.

    One client serves any number of tasks and namespaces; what `Client` says of retries and forks holds here too.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        tenant: str = "default",
        name: str = "",
        timeout_s: float = 10.0,
        tls: Tls | None = None,
        message_bytes_max: int = 64 * MIB,
        wait_for_ready: bool = False,
        cache_bytes_max: int = 128 * MIB,
    ) -> None:
        """`name` is who commits (default `<program>@<host>`), `timeout_s` the deadline of each call that names none.

        `wait_for_ready`: wait for a server, up to the deadline, instead of failing when there is none. `cache_bytes_max`: what
        may be kept of snapshots that were read or committed. Raises InvalidRequest for a tenant or name that is not ASCII.
        """
        self._driver = Driver(Endpoint(target, tenant, name or default_name(), timeout_s, tls, message_bytes_max, wait_for_ready))
        self._timeout_s = timeout_s
        self._flows = Flows(timeout_s=timeout_s, message_bytes_max=message_bytes_max, cache_bytes_max=cache_bytes_max)

    def namespace(self, name: str) -> AsyncNamespace:
        """A handle on a namespace; nothing is sent."""
        return AsyncNamespace(name, self._flows, self._driver)

    def rho(self, namespace: str) -> AsyncRho:
        """A handle on the key `rho` of a namespace; nothing is sent."""
        return AsyncRho(self.namespace(namespace), self._flows, self._driver)

    async def create_namespace(
        self, name: str, dimension: int = 0, distance: DistanceName = "cosine", *, timeout_s: float | None = None
    ) -> CreatedNamespace:
        """As `Client.create_namespace`."""
        flow = namespaces.create(name, dimension, distance, self._timeout_s if timeout_s is None else timeout_s)
        return await self._driver.run(flow)

    async def namespaces(self, *, page_size: int = 0, timeout_s: float | None = None) -> AsyncIterator[NamespaceInfo]:
        """As `Client.namespaces`."""
        token = ""
        while True:
            flow = namespaces.page(page_size, token, self._timeout_s if timeout_s is None else timeout_s)
            page = await self._driver.run(flow)
            for info in page.namespaces:
                yield info
            if not (token := page.next_page_token):
                return

    async def delete_namespace(
        self, name: str, *, confirm: str, if_revision: int | None = None, **options: Unpack[WriteOptions]
    ) -> DeletedNamespace:
        """As `Client.delete_namespace`."""
        return await self._driver.run(namespaces.delete(self._flows.kept, name, confirm, if_revision, self._timeout_s, **options))

    def tail_events(
        self,
        namespace: str = "",
        topics: str | Iterable[str] = (),
        *,
        after: int = 0,
        follow: bool = False,
        timeout_s: float | None = None,
    ) -> AsyncEventTail:
        """As `Client.tail_events`: `async for event in client.tail_events(): …`."""
        return AsyncEventTail(events.Tailing(namespace, topics, after, follow=follow, timeout_s=timeout_s), self._driver)

    def prune_plans(
        self, *, state: PlanStateName | None = None, page_size: int = 0, timeout_s: float | None = None
    ) -> AsyncIterator[PrunePlan]:
        """As `Client.prune_plans`."""
        return AsyncPrunes("", self._flows, self._driver).plans(state=state, page_size=page_size, timeout_s=timeout_s)

    async def health(self, namespace: str = "", *, timeout_s: float | None = None) -> HealthReport:
        """The whole report; with a namespace, on that one."""
        return await self._driver.run(self._flows.health(namespace, timeout_s))

    async def server_info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """What the server is and which limits it enforces."""
        return await self._driver.run(self._flows.server_info(timeout_s))

    async def cache_page(
        self, namespace: str = "", *, page_size: int = 0, page_token: str = "", timeout_s: float | None = None
    ) -> CachePage:
        """How the cache before the server's store is, and of which namespaces: one, or a page of all."""
        flow = caches.page(namespace, page_size, page_token, self._timeout_s if timeout_s is None else timeout_s)
        return await self._driver.run(flow)

    async def switch_cache(
        self, namespace: str = "", *, every: bool = False, enabled: bool, timeout_s: float | None = None
    ) -> int:
        """Turns the cache of a namespace (of `every` one) off until it is turned on again; how many namespaces there are.

        When it returns, no read is answered from a cache that was turned off.
        """
        flow = caches.switch(
            namespace, every=every, enabled=enabled, timeout_s=self._timeout_s if timeout_s is None else timeout_s
        )
        return await self._driver.run(flow)

    async def close(self) -> None:
        """Ends the connection. What was read stays valid."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


class AsyncNamespace:
    """The named matrices of one namespace, which move together: one commit, one version.

    Its memories are in `memories`; which of them went, and shall go, is in `prunes`.
    """

    def __init__(self, name: str, flows: Flows, driver: Driver) -> None:
        self.name = name
        self._flows = flows
        self._driver = driver

    @property
    def memories(self) -> AsyncMemories:
        """The namespace's memories; nothing is sent."""
        return AsyncMemories(self.name, self._flows.timeout_s, self._driver)

    @property
    def prunes(self) -> AsyncPrunes:
        """The namespace's prunes; nothing is sent."""
        return AsyncPrunes(self.name, self._flows, self._driver)

    async def read(
        self,
        keys: Keys = None,
        *,
        version: int | None = None,
        consistency: Consistency = "cached",
        min_version: int | None = None,
        max_staleness_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Snapshot:
        """As `Namespace.read`."""
        return await self._driver.run(
            self._flows.read(
                self.name,
                keys,
                version=version,
                consistency=consistency,
                min_version=min_version,
                max_staleness_s=max_staleness_s,
                timeout_s=timeout_s,
            )
        )

    async def describe(self, version: int | None = None, *, timeout_s: float | None = None) -> Snapshot:
        """As `Namespace.describe`."""
        return await self._driver.run(self._flows.describe(self.name, version=version, timeout_s=timeout_s))

    async def commit(
        self,
        changes: Changes,
        *,
        expected_version: int | Snapshot,
        metadata: Metadata | None = None,
        request_id: str | None = None,
        validate_only: bool = False,
        max_step: MaxStep = None,
        kinds: Kinds = None,
        memories: MemoryChanges = (),
        timeout_s: float | None = None,
    ) -> Commit:
        """As `Namespace.commit`."""
        return await self._driver.run(
            self._flows.commit(
                self.name,
                changes,
                expected_version=expected_version,
                metadata=metadata,
                request_id=request_id,
                validate_only=validate_only,
                max_step=max_step,
                kinds=kinds,
                memories=memories,
                timeout_s=timeout_s,
            )
        )

    async def update(
        self, fn: Callable[[Snapshot], Decision], *, keys: Keys = None, **options: Unpack[UpdateOptions]
    ) -> Commit | None:
        """As `Namespace.update`; `fn` may be a coroutine function. A plain one blocks the loop while it computes."""
        return await self._driver.run(self._flows.update(self.name, fn, keys=keys, **options))

    async def versions(self, *, page_size: int = 0, timeout_s: float | None = None) -> AsyncIterator[RhoVersion]:
        """The versions that are kept, newest first; the next page is asked for when it is needed (0: the server's page size)."""
        token = ""
        while True:
            page = await self._driver.run(self._flows.page(self.name, page_size, token, timeout_s))
            for version in page.versions:
                yield version
            if not (token := page.next_page_token):
                return

    async def restore(
        self,
        version: int | LastValid,
        *,
        expected_version: int | Snapshot,
        request_id: str | None = None,
        metadata: Metadata | None = None,
        validate_only: bool = False,
        timeout_s: float | None = None,
    ) -> Restored:
        """As `Namespace.restore`."""
        return await self._driver.run(
            self._flows.restore(
                self.name,
                version,
                expected_version=expected_version,
                request_id=request_id,
                metadata=metadata,
                validate_only=validate_only,
                timeout_s=timeout_s,
            )
        )

    def watch(
        self,
        after_version: int | None = None,
        keys: Keys = None,
        *,
        newest_only: bool = False,
        numbers: bool = True,
        bookmark_interval_s: float | None = None,
        timeout_s: float | None = None,
    ) -> AsyncWatch:
        """As `Namespace.watch`."""
        options = WatchOptions(after_version, newest_only, numbers, bookmark_interval_s, timeout_s)
        return AsyncWatch(Watching(self._flows.kept, self.name, keys, options), self._driver)

    def follow(
        self, keys: Keys = None, *, bookmark_interval_s: float | None = None, timeout_s: float | None = None
    ) -> AsyncFollower:
        """As `Namespace.follow`, in a task: `async with namespace.follow() as rho: rho.snapshot["rho"]`."""
        return AsyncFollower(
            self._flows, self.name, keys, self._driver, bookmark_interval_s=bookmark_interval_s, timeout_s=timeout_s
        )

    def forget(self) -> None:
        """Drops what is kept of the namespace, and the promise that no read is older: after a server came back from a backup."""
        self._flows.kept.forget(self.name)


class AsyncRho:
    """The key `rho` of one namespace."""

    def __init__(self, namespace: AsyncNamespace, flows: Flows, driver: Driver) -> None:
        self.namespace = namespace
        self._flows = flows
        self._driver = driver

    async def read(self, **options: Unpack[ReadOptions]) -> Snapshot:
        """As `Namespace.read`; the array is `snapshot["rho"]`."""
        return await self.namespace.read("rho", **options)

    async def commit(
        self, rho: Array | Factor, *, expected_version: int | Snapshot, **options: Unpack[SingleCommitOptions]
    ) -> Commit:
        """As `Namespace.commit`."""
        return await self.namespace.commit({"rho": rho}, expected_version=expected_version, **options)

    async def update(
        self, fn: Callable[[Any], Array | Factor | Awaitable[Array | Factor | None] | None], **options: Unpack[UpdateOptions]
    ) -> Commit | None:
        """As `Namespace.update`: `fn` is given the array (a Factor if that is stored, None without a ρ), answers the next."""
        return await self._driver.run(self._flows.update_key(self.namespace.name, "rho", fn, **options))
