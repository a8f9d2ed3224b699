"""The blocking client. Each method hands a flow to the driver below, which performs its steps on a `grpc.Channel`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from sfm_grpc.client import bulk, caches, events, index_audit, links, memory_flows, namespaces, prune_flows
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
from sfm_grpc.client.flows import METHODS, Flows
from sfm_grpc.client.memories import Memories
from sfm_grpc.client.memory_records import WriteOptions
from sfm_grpc.client.namespaces import CreatedNamespace, DeletedNamespace, DistanceName, NamespaceInfo
from sfm_grpc.client.prune_records import PlanStateName, PrunePlan
from sfm_grpc.client.prunes import Prunes
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
from sfm_grpc.client.streams import EventTail, Follower, Watch
from sfm_grpc.client.watching import WATCH_RHO, Watching, WatchOptions
from sfm_grpc.errors import SfmError
from sfm_grpc.model import Metadata

UNARY = (*METHODS, *memory_flows.METHODS, *namespaces.METHODS, *links.METHODS, *prune_flows.METHODS)
STREAMS = (WATCH_RHO, *bulk.STREAMS, *index_audit.STREAMS, *events.STREAMS)


class Driver:
    """Performs the steps of flows, blocking the calling thread. Safe to share between threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._metadata = endpoint.metadata
        options = endpoint.options
        if endpoint.tls:
            self._channel = grpc.secure_channel(endpoint.target, endpoint.tls.credentials(), options)
        else:
            self._channel = grpc.insecure_channel(endpoint.target, options)
        # Without serializers bytes go in and out as they are.
        self._methods: dict[str, Any] = {method: self._channel.unary_unary(method) for method in UNARY}
        self._methods |= {method: self._channel.unary_stream(method) for method in STREAMS}
        self._methods |= {method: self._channel.stream_stream(method) for method in bulk.CONVERSATIONS}
        self._closed = False
        self._ways: dict[type[Step], Callable[[Any], Any]] = {
            Call: self._call,
            Open: self._open,
            Converse: self._converse,
            Send: lambda send: send.stream.send(send.request),
            Receive: self._receive,
            Pause: lambda pause: time.sleep(pause.seconds),
            Run: lambda run: run.fn(*run.args),
        }

    def run(self, flow: Flow[T]) -> T:
        """Performs the flow and answers its result, or raises its error."""
        try:
            step = next(flow)
            while True:
                try:
                    result = self._perform(step)
                except Exception as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _perform(self, step: Step) -> Any:
        return self._ways[type(step)](step)

    def _call(self, call: Call) -> bytes:
        if self._closed:
            raise RuntimeError("the client is closed")
        try:
            reply: bytes = self._methods[call.method](
                call.request, timeout=call.timeout_s, metadata=self._metadata, wait_for_ready=self._endpoint.wait_for_ready
            )
        except grpc.RpcError as error:
            failure: SfmError = translated(error, target=self._endpoint.target, timeout_s=call.timeout_s)
        else:
            return reply
        raise failure

    def _open(self, step: Open) -> Any:
        if self._closed:
            raise RuntimeError("the client is closed")
        return self._methods[step.method](
            step.request, timeout=step.timeout_s, metadata=self._metadata, wait_for_ready=self._endpoint.wait_for_ready
        )

    def _converse(self, step: Converse) -> Conversation:
        if self._closed:
            raise RuntimeError("the client is closed")
        return Conversation(self._methods[step.method], metadata=self._metadata, wait_for_ready=self._endpoint.wait_for_ready)

    def _receive(self, step: Receive) -> bytes | None:
        stream: Any = step.stream
        try:
            reply: bytes | None = next(stream, None)
        except grpc.RpcError as error:
            failure = translated(error, target=self._endpoint.target, timeout_s=step.timeout_s or 0.0)
        else:
            return reply
        raise failure

    def close(self) -> None:
        """Ends the channel; calls under way fail."""
        self._closed = True
        self._channel.close()


class Conversation(Iterator[bytes]):
    """A call whose requests are sent one by one; gRPC takes them from a thread of its own. Iterating waits for the answers."""

    def __init__(self, method: Any, **how: Any) -> None:
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        self._call: Any = method(iter(self._requests.get, None), **how)

    def send(self, request: bytes | None) -> None:
        """Queues a request; None: there are no more."""
        self._requests.put(request)

    def __next__(self) -> bytes:
        return next(self._call)  # type: ignore[no-any-return]

    def cancel(self) -> None:
        """Ends it."""
        self._call.cancel()
        # The thread that waits for the next request.
        self._requests.put(None)


class Client:
    """A connection to the data plane, for threads. It connects when first used and again whenever it must.

    One client serves any number of threads and namespaces. It does not survive a fork: create it in the process that uses it.
    UNAVAILABLE is retried by gRPC (five attempts, about two seconds), safely, as each write carries a request id. Nothing else
    is retried: an `Overloaded` says in `retry_delay_s` when to come again, a `VersionConflict` is `update`'s to resolve.
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

    def namespace(self, name: str) -> Namespace:
        """A handle on a namespace; nothing is sent."""
        return Namespace(name, self._flows, self._driver)

    def rho(self, namespace: str) -> Rho:
        """A handle on the key `rho` of a namespace; nothing is sent."""
        return Rho(self.namespace(namespace), self._flows, self._driver)

    def create_namespace(
        self, name: str, dimension: int = 0, distance: DistanceName = "cosine", *, timeout_s: float | None = None
    ) -> CreatedNamespace:
        """Creates a namespace for memories whose vectors have `dimension` numbers (0: as many as the first one).

        `distance` is "cosine", "dot" or "euclidean". One that is the same already is no error. The first put creates a namespace,
        too. Raises AlreadyExists (with another dimension or distance), InvalidRequest, LimitExceeded.
        """
        flow = namespaces.create(name, dimension, distance, self._timeout_s if timeout_s is None else timeout_s)
        return self._driver.run(flow)

    def namespaces(self, *, page_size: int = 0, timeout_s: float | None = None) -> Iterator[NamespaceInfo]:
        """The tenant's namespaces that have memories, or were created, by name; pages are asked for when they are needed."""
        token = ""
        while True:
            flow = namespaces.page(page_size, token, self._timeout_s if timeout_s is None else timeout_s)
            page = self._driver.run(flow)
            yield from page.namespaces
            if not (token := page.next_page_token):
                return

    def delete_namespace(
        self, name: str, *, confirm: str, if_revision: int | None = None, **options: Unpack[WriteOptions]
    ) -> DeletedNamespace:
        """Deletes a namespace: its memories and links for good, its matrices by a commit, both or neither.

        `confirm` is its name once more; anything else is a ConfirmationRequired, which says how much would go. `if_revision`:
        only if its memories are at this revision. Should it come into being again, its versions and revisions go on.
        Options: `request_id`, `validate_only`, `timeout_s`. Raises ConfirmationRequired, NotFound, VersionConflict.
        """
        return self._driver.run(namespaces.delete(self._flows.kept, name, confirm, if_revision, self._timeout_s, **options))

    def tail_events(
        self,
        namespace: str = "",
        topics: str | Iterable[str] = (),
        *,
        after: int = 0,
        follow: bool = False,
        timeout_s: float | None = None,
    ) -> EventTail:
        """The tenant's events in the server's outbox, oldest first, those after the event `after`: whether Kafka has them or not.

        `namespace` and `topics` empty: all. With `follow` it goes on with what is written, until it is closed. `timeout_s` bounds
        the whole (None: nothing does). To go on after an error, tail again after the last event. Raises, while it is iterated,
        InvalidRequest, Overloaded, StoreUnavailable, Draining.
        """
        return EventTail(events.Tailing(namespace, topics, after, follow=follow, timeout_s=timeout_s), self._driver)

    def prune_plans(
        self, *, state: PlanStateName | None = None, page_size: int = 0, timeout_s: float | None = None
    ) -> Iterator[PrunePlan]:
        """As `Prunes.plans`, of all of the tenant's namespaces."""
        return Prunes("", self._flows, self._driver).plans(state=state, page_size=page_size, timeout_s=timeout_s)

    def health(self, namespace: str = "", *, timeout_s: float | None = None) -> HealthReport:
        """The whole report; with a namespace, on that one."""
        return self._driver.run(self._flows.health(namespace, timeout_s))

    def server_info(self, *, timeout_s: float | None = None) -> ServerInfo:
        """What the server is and which limits it enforces."""
        return self._driver.run(self._flows.server_info(timeout_s))

    def cache_page(
        self, namespace: str = "", *, page_size: int = 0, page_token: str = "", timeout_s: float | None = None
    ) -> CachePage:
        """How the cache before the server's store is, and of which namespaces: one, or a page of all."""
        flow = caches.page(namespace, page_size, page_token, self._timeout_s if timeout_s is None else timeout_s)
        return self._driver.run(flow)

    def switch_cache(self, namespace: str = "", *, every: bool = False, enabled: bool, timeout_s: float | None = None) -> int:
        """Turns the cache of a namespace (of `every` one) off until it is turned on again; how many namespaces there are.

        When it returns, no read is answered from a cache that was turned off.
        """
        flow = caches.switch(
            namespace, every=every, enabled=enabled, timeout_s=self._timeout_s if timeout_s is None else timeout_s
        )
        return self._driver.run(flow)

    def close(self) -> None:
        """Ends the connection. What was read stays valid."""
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Namespace:
    """The named matrices of one namespace, which move together: one commit, one version.

    Its memories are in `memories`; which of them went, and shall go, is in `prunes`.
    """

    def __init__(self, name: str, flows: Flows, driver: Driver) -> None:
        self.name = name
        self._flows = flows
        self._driver = driver

    @property
    def memories(self) -> Memories:
        """The namespace's memories; nothing is sent."""
        return Memories(self.name, self._flows.timeout_s, self._driver)

    @property
    def prunes(self) -> Prunes:
        """The namespace's prunes; nothing is sent."""
        return Prunes(self.name, self._flows, self._driver)

    def read(
        self,
        keys: Keys = None,
        *,
        version: int | None = None,
        consistency: Consistency = "cached",
        min_version: int | None = None,
        max_staleness_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Snapshot:
        """The matrices of the newest version, or of exactly `version`; `keys` None: all of them.

        Never older than anything this client has seen of the namespace, nor than `min_version`. "cached" is never older than any
        answer to anyone, "canonical" asks the store itself. `max_staleness_s` also accepts what was true that long ago, for when
        the store is down. Numbers that are already here do not travel (`modified` is False then).

        Raises NotFound (namespace, or the absent keys), VersionCompacted, VersionNotReached, RhoCorrupt.
        """
        return self._driver.run(
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

    def describe(self, version: int | None = None, *, timeout_s: float | None = None) -> Snapshot:
        """The certificates of the newest version, or of exactly `version`, without numbers. Raises as `read`."""
        return self._driver.run(self._flows.describe(self.name, version=version, timeout_s=timeout_s))

    def commit(
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
        """Commits all changes, or none, if the namespace is still at `expected_version` (0: nothing was ever committed).

        A change is a float64 or float32 array, a Factor, or None: the key goes away. A key's kind is what `kinds` says, else what
        it is in the snapshot given as `expected_version`, else density for `rho` and factors and generic for the rest. `max_step`
        bounds ‖new − old‖_F, of every key or of each. Give a `request_id` of your own to be able to repeat a commit whose outcome
        is unknown (StoreUnavailable, Unreachable, DeadlineExceeded): the same content under the same id is committed once.
        `memories` (MemoryPut, MemoryUpdate, MemoryDelete) are written in the same transaction: both or neither.

        Raises VersionConflict (its `key`, if any, is the memory whose revision is another), MatrixMalformed, RhoNotFinite,
        RhoNotHermitian, RhoTrace, RhoNotPsd, KindChanged, StepTooLarge, RequestIdReused, LimitExceeded, and for memories as
        `Memories.put` and `update`.
        """
        return self._driver.run(
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

    def update(
        self, fn: Callable[[Snapshot], Changes | None], *, keys: Keys = None, **options: Unpack[UpdateOptions]
    ) -> Commit | None:
        """Reads, lets `fn(snapshot)` answer the changes, commits them against that snapshot; None from `fn` stops it.

        When another writer was faster it begins again, with a new request id, after a short random pause, `attempts` (16) times
        at most: so `fn` may run more than once, on newer numbers each time. The snapshot of a namespace that does not exist yet
        is empty, its version 0; a key of `keys` that is absent is absent in the snapshot. `timeout_s` bounds the whole, `fn`
        included (default: each call has the client's own deadline). Options: `attempts`, `metadata`, `max_step`, `kinds`,
        `memories`, `timeout_s`.

        Raises the last VersionConflict, and what `commit` and `fn` raise.
        """
        return self._driver.run(self._flows.update(self.name, fn, keys=keys, **options))

    def versions(self, *, page_size: int = 0, timeout_s: float | None = None) -> Iterator[RhoVersion]:
        """The versions that are kept, newest first; the next page is asked for when it is needed (0: the server's page size)."""
        token = ""
        while True:
            page = self._driver.run(self._flows.page(self.name, page_size, token, timeout_s))
            yield from page.versions
            if not (token := page.next_page_token):
                return

    def restore(
        self,
        version: int | LastValid,
        *,
        expected_version: int | Snapshot,
        request_id: str | None = None,
        metadata: Metadata | None = None,
        validate_only: bool = False,
        timeout_s: float | None = None,
    ) -> Restored:
        """Makes an earlier version, or the newest that is whole ("last_valid"), the newest again, as a new commit.

        Raises VersionConflict, NotFound, VersionCompacted, RhoCorrupt.
        """
        return self._driver.run(
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
    ) -> Watch:
        """The versions after `after_version` (0: from the very first; None: the newest and what follows it), as they are made.

        In order, each once; with `newest_only` a slow caller gets the newest and skips those before it. A namespace that does not
        exist is waited for. `numbers` False: certificates only. `as_of_time` is renewed at least each `bookmark_interval_s`
        seconds (0.1 to 3600, default 5). `timeout_s` bounds the whole (None: nothing does). To go on after an error, watch again
        after the last version. What arrives is what later reads of this client are at least as new as.

        Raises, while it is iterated, VersionCompacted (the caller was too slow), VersionNotReached (the namespace is at an older
        version, a backup was restored), RhoCorrupt, Draining, Overloaded.
        """
        options = WatchOptions(after_version, newest_only, numbers, bookmark_interval_s, timeout_s)
        return Watch(Watching(self._flows.kept, self.name, keys, options), self._driver)

    def follow(self, keys: Keys = None, *, bookmark_interval_s: float | None = None, timeout_s: float | None = None) -> Follower:
        """Keeps the newest snapshot at hand, in a thread of its own: `with namespace.follow() as rho: rho.snapshot["rho"]`.

        It reconnects by itself. While server and store are there, the snapshot is hardly older than `bookmark_interval_s` (0.1 to
        3600, default 5), and `age_s` says how old. `timeout_s` is how long to wait for the first one (default: the client's own).
        """
        return Follower(self._flows, self.name, keys, self._driver, bookmark_interval_s=bookmark_interval_s, timeout_s=timeout_s)

    def forget(self) -> None:
        """Drops what is kept of the namespace, and the promise that no read is older: after a server came back from a backup."""
        self._flows.kept.forget(self.name)


class Rho:
    """The key `rho` of one namespace."""

    def __init__(self, namespace: Namespace, flows: Flows, driver: Driver) -> None:
        self.namespace = namespace
        self._flows = flows
        self._driver = driver

    def read(self, **options: Unpack[ReadOptions]) -> Snapshot:
        """As `Namespace.read`; the array is `snapshot["rho"]`."""
        return self.namespace.read("rho", **options)

    def commit(self, rho: Array | Factor, *, expected_version: int | Snapshot, **options: Unpack[SingleCommitOptions]) -> Commit:
        """As `Namespace.commit`."""
        return self.namespace.commit({"rho": rho}, expected_version=expected_version, **options)

    def update(self, fn: Callable[[Any], Array | Factor | None], **options: Unpack[UpdateOptions]) -> Commit | None:
        """As `Namespace.update`: `fn` is given the array (a Factor if that is stored, None without a ρ), answers the next."""
        return self._driver.run(self._flows.update_key(self.namespace.name, "rho", fn, **options))
