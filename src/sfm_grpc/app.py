"""The composition root: opens everything in order, closes it in reverse, and nothing else decides who knows whom."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from threadpoolctl import threadpool_limits

from sfm_grpc import allocator, stores
from sfm_grpc.coordinator.bulk import BulkStreams
from sfm_grpc.coordinator.caches import Caches
from sfm_grpc.coordinator.commit import CommitPath
from sfm_grpc.coordinator.contents import Contents
from sfm_grpc.coordinator.examiner import Examiner
from sfm_grpc.coordinator.exports import Exports
from sfm_grpc.coordinator.fences import Fences
from sfm_grpc.coordinator.health import RhoHealth
from sfm_grpc.coordinator.housekeeping import Housekeeping
from sfm_grpc.coordinator.imports import Imports
from sfm_grpc.coordinator.index_audit import IndexAudit
from sfm_grpc.coordinator.indexing import Indexer
from sfm_grpc.coordinator.leased import Leases
from sfm_grpc.coordinator.links import LinkCoordinator
from sfm_grpc.coordinator.memories import MemoryCoordinator, MemoryRules
from sfm_grpc.coordinator.memory_upkeep import MemoryUpkeep
from sfm_grpc.coordinator.namespaces import NamespaceCoordinator
from sfm_grpc.coordinator.outbox import Outbox
from sfm_grpc.coordinator.presence import Presence
from sfm_grpc.coordinator.prune_limits import PruneLimits
from sfm_grpc.coordinator.prune_orders import OrderRules, PruneOrders
from sfm_grpc.coordinator.pruner import PruneCoordinator, PruneRules
from sfm_grpc.coordinator.reads import Reads
from sfm_grpc.coordinator.relay import Relay
from sfm_grpc.coordinator.report import Truth
from sfm_grpc.coordinator.rho import RhoCoordinator, RhoRules
from sfm_grpc.coordinator.search import MemorySearch
from sfm_grpc.coordinator.sent import AdmissionRules
from sfm_grpc.coordinator.sent_memories import MemoryBounds
from sfm_grpc.coordinator.watches import Watches
from sfm_grpc.density import cholesky
from sfm_grpc.density.admission import Bounds
from sfm_grpc.http import routes
from sfm_grpc.http.server import HttpServer
from sfm_grpc.metrics import LatencyWindow, Metrics
from sfm_grpc.model import PruneGuards, PutMatrix, Scope, Transaction, Version
from sfm_grpc.rpc import server as rpc_server
from sfm_grpc.rpc.events import EventsServicer
from sfm_grpc.rpc.grpc_health import ProbeServicer
from sfm_grpc.rpc.health import HealthServicer, ServerFacts
from sfm_grpc.rpc.interceptors import CallGuard, CallRules
from sfm_grpc.rpc.load import Load, LoadRules
from sfm_grpc.rpc.memory_links import LinkServicer
from sfm_grpc.rpc.memory_namespaces import NamespaceServicer
from sfm_grpc.rpc.memory_store import MemoryStoreServicer
from sfm_grpc.rpc.memory_streams import BulkServicer
from sfm_grpc.rpc.pruner import PrunerServicer
from sfm_grpc.rpc.rho_store import RhoStoreServicer
from sfm_grpc.rpc.waiting import received_by_newest_server
from sfm_grpc.settings import Settings
from sfm_grpc.storage.contract import Retention, Store
from sfm_grpc.storage.in_process import SnapshotCache

_log = logging.getLogger(__name__)


class App:
    """One server process. Construct, then `async with` it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = s = settings
        self.metrics = Metrics()
        self.address = ""
        self.http_address = ""
        self._windows = {"read": LatencyWindow(s.latency_window_s), "commit": LatencyWindow(s.latency_window_s)}
        # Admission is CPU: more threads than cores would only take turns.
        self._threads = ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="admission")
        self.store: Store = stores.build(s, self.metrics.store)
        snapshots = SnapshotCache(bytes_max=s.rho_cache_bytes_max, ttl_s=s.rho_cache_ttl)
        self.cache = stores.build_cache(s, self.store, self.metrics.cache)
        contents = Contents(self.cache) if self.cache is not None else None
        self.fences = self._fences(contents)
        self.leases = Leases(contents, snapshots, self.fences, self.metrics.cache) if contents and self.fences else None
        self.rho_health = RhoHealth(self.store, self._threads, self.metrics)
        self.reads = Reads(
            self.store, snapshots, self.leases, keys_max=s.keys_per_namespace_max, on_corrupt=self.rho_health.found_corrupt
        )
        self.presence = Presence(self.store, self.rho_health.load)
        self.index = stores.build_index(s)
        self.indexer = Indexer(self.store, self.index, self.metrics.index)
        self.outbox = Outbox(self.store, self.fences, self.metrics.events, streams_max=s.events_streams_max)
        self.sink = stores.build_sink(s)
        self.relay = Relay(self.store, self.outbox, self.sink, self.metrics.events) if self.sink is not None else None
        retention = Retention(s.rho_history_versions, s.rho_history_age_s, s.request_age_s, s.events_kept, s.events_unsent_max)
        self._housekeeping = Housekeeping(self.store, snapshots, retention, self.metrics, self.rho_health.is_whole)
        behind = self.store if stores.is_cached(self.store) else None
        self.caches = Caches(behind, self.fences, self.cache, page_size_max=s.page_size_max)
        self.watches = Watches(
            self.store,
            snapshots.numbers,
            self.metrics,
            on_corrupt=self.rho_health.found_corrupt,
            keys_max=s.keys_per_namespace_max,
            streams_max=s.watch_streams_max,
            poll_s=s.watch_poll_ms / 1000,
            fences=self.fences,
        )
        self.commits = CommitPath(self.store, self.fences)
        for listener in (
            self.reads.committed,
            self.rho_health.committed,
            self._housekeeping.committed,
            self.watches.committed,
            self._count,
        ):
            self.commits.on_committed(listener)
        self._slow_threads = ThreadPoolExecutor(1, thread_name_prefix="slow-admission")
        rules = _rho_rules(s)
        examiner = Examiner(rules.admission, self._threads, self._slow_threads, slow_max=s.slow_admissions_max)
        self.rho = RhoCoordinator(self.store, self.commits, self.reads, examiner, rules, on_step=self.metrics.step.observe)
        self._build_memories(s)
        self.inbox = stores.build_inbox(s)
        self.orders = PruneOrders(self.pruner, self.inbox, self.metrics.orders, _order_rules(s)) if self.inbox else None
        parts = [part.component for part in (self.leases, self.indexer, self.relay, self.orders) if part is not None]
        self.truth = Truth(
            self.presence, self.rho_health, self.reads, self._windows, latency_bound_s=s.latency_bound_ms / 1000, parts=parts
        )
        self._load = Load(_load_rules(s), self.metrics)
        self._guard = CallGuard(_call_rules(s), self._load, self.metrics, self._named_windows(), rpc_server.PACKAGE)
        self._probe = ProbeServicer(rpc_server.SERVICES)
        self._background: list[asyncio.Task[None]] = []
        self._stack = contextlib.AsyncExitStack()

    def _build_memories(self, s: Settings) -> None:
        """Whatever is about memories."""
        self.memories = MemoryCoordinator(self.store, self.commits, _memory_rules(s))
        self.namespaces = NamespaceCoordinator(self.store, self.commits, self.indexer, _memory_rules(s))
        self.links = LinkCoordinator(self.store, self.commits, _memory_rules(s))
        self.pruner = PruneCoordinator(self.store, self.commits, self.rho, _prune_rules(s))
        self.prune_limits = PruneLimits(self.store, self.pruner, request_age_s=s.request_age_s)
        self.audit = IndexAudit(self.store, self.index, self.indexer)
        bulk = BulkStreams(s.bulk_streams_max, self.metrics)
        self.imports = Imports(
            self.store,
            self.commits,
            bulk,
            _memory_bounds(s),
            self.metrics,
            transaction_s=s.deadline_default_ms / 1000,
            node_id=s.node,
        )
        self.exports = Exports(self.store, bulk)
        self.search = MemorySearch(self.store, self.index, limit_max=s.search_limit_max)
        self.commits.on_written(self.indexer.written)
        self.commits.on_written(self.outbox.written)
        self.commits.on_committed(lambda *_: self.outbox.written())
        self.memory_upkeep = MemoryUpkeep(self.store, self.commits, self.metrics, undelete_s=s.undelete_s, node_id=s.node)

    def _fences(self, contents: Contents | None) -> Fences | None:
        """Wherever a cache may stand before the store, if only another process's."""
        if not stores.is_cached(self.store):
            return None
        return Fences(self.store, contents, self.metrics.cache, fence_timeout_s=self.settings.fence_timeout_ms / 1000)

    def _named_windows(self) -> dict[str, LatencyWindow]:
        return {"GetRho": self._windows["read"], "CommitRho": self._windows["commit"]}

    # ---- life

    async def __aenter__(self) -> App:
        """Opens the store, the ports, the background work. Raises StoreRefused, OSError; leaves nothing open then.

        A store that is away may come later: until then the server is alive, and not ready.
        """
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _open(self) -> None:
        allocator.keep_large_blocks()
        self._one_core_each()
        self._stack.callback(self._threads.shutdown)
        self._stack.callback(self._slow_threads.shutdown)
        self._stack.push_async_callback(self.store.close)
        self._stack.push_async_callback(self.index.close)
        self._stack.push_async_callback(self.presence.end)
        for part in (self.cache, self.fences, self.leases, self.sink, self.inbox):
            if part is not None:
                self._stack.push_async_callback(part.close)
        await self.presence.begin()
        if self.cache is not None:
            await self.cache.probe()
            self.cache.start()
        self.rho_health.on_change(lambda ok: self._spawn(self._probe.set_rho(ok)))
        await self._open_grpc()
        await self._open_http()
        self._stack.push_async_callback(self._stop_background)
        self._spawn(self.rho_health.watch(self.settings.rho_verify_interval_s))
        self._spawn(self.rho_health.follow())
        self._spawn(self._housekeeping.run())
        self._spawn(self.memory_upkeep.run())
        self._spawn(self.prune_limits.run())
        self._spawn(self.indexer.run())
        self._spawn(self.watches.run())
        if self.relay is not None:
            self._spawn(self.relay.run())
        if self.orders is not None:
            self._spawn(self.orders.run())
        self._spawn(self.presence.run(self._tell_ready))
        self._spawn(self._settle())
        await self._probe.set_rho(self.rho_health.ok)
        await self._probe.set_started()
        await self._tell_ready(await self.presence.look())

    async def _open_grpc(self) -> None:
        facts = ServerFacts(self.settings, self.store.name, self.index.name, rpc_server.SERVICES)
        servicers: dict[str, list[object]] = {
            "RhoStore": [
                RhoStoreServicer(
                    self.rho,
                    self.reads,
                    self.watches,
                    self.caches,
                    self.metrics,
                    deadline=self._guard.deadline,
                    fields_bytes_max=self.settings.fields_bytes_max,
                    batch_bytes_max=self.settings.batch_bytes_max,
                )
            ],
            "MemoryStore": [
                MemoryStoreServicer(
                    self.memories,
                    self.search,
                    self.indexer,
                    deadline=self._guard.deadline,
                    batch_bytes_max=self.settings.batch_bytes_max,
                ),
                NamespaceServicer(self.namespaces, self.audit, deadline=self._guard.deadline),
                BulkServicer(self.imports, self.exports, batch_bytes_max=self.settings.batch_bytes_max),
                LinkServicer(self.links, deadline=self._guard.deadline),
            ],
            "Events": [EventsServicer(self.outbox)],
            "Pruner": [
                PrunerServicer(
                    self.pruner,
                    deadline=self._guard.deadline,
                    undelete_s=self.settings.undelete_s,
                    batch_bytes_max=self.settings.batch_bytes_max,
                )
            ],
            "Health": [HealthServicer(self.truth.report, facts)],
        }
        self._server = rpc_server.build(self.settings, servicers, self._probe, self._guard)
        self._received = received_by_newest_server()
        self.address = rpc_server.bind(self._server, self.settings)
        await self._server.start()
        self._stack.push_async_callback(self._server.stop, self.settings.drain_s)
        self._stack.callback(self._guard.end_streams)

    async def _open_http(self) -> None:
        if not self.settings.http_listen:
            return
        app = routes.build(self.truth.report, self.metrics.registry, self._before_scrape, self.address)
        http = HttpServer(app, self.settings.http_listen)
        self.http_address = await http.start()
        self._stack.push_async_callback(http.stop)

    async def drain(self) -> None:
        """Says that it is going, waits for that to be noticed, then refuses new calls and finishes those in flight."""
        self.truth.draining = True
        await self._tell_ready(self.presence.ok)
        await asyncio.sleep(self.settings.drain_notice_s)
        # In this order: a server that is stopping tells callers who come now CANCELLED, which nobody retries.
        end = time.monotonic() + self.settings.drain_s
        self._guard.end_streams()
        await self._load.drain(self.settings.drain_s)
        await self._server.stop(max(0.0, end - time.monotonic()))

    # ---- background

    async def _settle(self) -> None:
        """Loads LAPACK before the first matrix comes, where it does not come at once; only then is lateness a sign of load.

        What is loaded holds the interpreter, on a busy machine for half a second, and a server that has just begun would
        refuse its first calls for that.
        """
        await asyncio.to_thread(cholesky.load)
        self._one_core_each()
        await self._load.watch(self._received)

    def _one_core_each(self) -> None:
        """Of the BLAS that are loaded by now: admission has threads of its own."""
        self._stack.enter_context(threadpool_limits(1, user_api="blas"))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.append(task)
        task.add_done_callback(self._background.remove)
        task.add_done_callback(_log_failure)

    async def _stop_background(self) -> None:
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _tell_ready(self, _store_ok: bool) -> None:
        self.metrics.ready.set(self.truth.ready)
        await self._probe.set_ready(self.truth.ready)

    # ---- metrics

    def _count(self, _scope: Scope, _version: Version, transaction: Transaction) -> None:
        puts = [c for c in transaction.changes if isinstance(c, PutMatrix)]
        self.metrics.commits.inc()
        self.metrics.commit_bytes.observe(sum(len(p.matrix.numbers) for p in puts))
        self.metrics.clamped.inc(sum(p.certificate.clamped for p in puts))

    def _before_scrape(self) -> None:
        self.metrics.rho_degraded.set(self.reads.degraded)
        for name, window in self._windows.items():
            self.metrics.latency_p95.labels(name).set(window.p95()[0])


def _rho_rules(s: Settings) -> RhoRules:
    bounds = Bounds(epsilon_floor=s.rho_epsilon, trace_tolerance=s.rho_trace_tolerance, hermitian_floor=s.rho_epsilon)
    return RhoRules(
        admission=AdmissionRules(bounds, s.rho_enforcement, s.dimension_max, s.message_bytes_max),
        keys_per_commit_max=s.keys_per_commit_max,
        memories=_memory_bounds(s),
        metadata_bytes_max=s.metadata_bytes_max,
        page_size_max=s.page_size_max,
        max_step=s.rho_max_step,
        node_id=s.node,
    )


def _memory_bounds(s: Settings) -> MemoryBounds:
    return MemoryBounds(s.batch_max, s.payload_bytes_max, s.json_depth_max, s.vector_dimension_max)


def _memory_rules(s: Settings) -> MemoryRules:
    return MemoryRules(
        bounds=_memory_bounds(s),
        page_size_max=s.page_size_max,
        undelete_s=s.undelete_s,
        node_id=s.node,
    )


def _prune_rules(s: Settings) -> PruneRules:
    return PruneRules(
        guards=PruneGuards(s.prune_keys_max, s.prune_percent_max, s.prune_remaining_min),
        order_max=s.prune_order_max,
        plan_s=s.prune_plan_s,
        undelete_s=s.undelete_s,
        page_size_max=s.page_size_max,
        node_id=s.node,
    )


def _order_rules(s: Settings) -> OrderRules:
    return OrderRules(apply_s=s.deadline_default_ms / 1000, remembered_s=s.request_age_s, message_bytes_max=s.message_bytes_max)


def _call_rules(s: Settings) -> CallRules:
    return CallRules(
        deadline_default_s=s.deadline_default_ms / 1000,
        deadline_max_s=s.deadline_max_ms / 1000,
        message_bytes_max=s.message_bytes_max,
        slow_s=s.slow_call_ms / 1000,
    )


def _load_rules(s: Settings) -> LoadRules:
    return LoadRules(
        calls_max=s.concurrent_rpcs_max,
        request_bytes_max=s.inflight_bytes_max,
        answer_bytes_max=s.inflight_answer_bytes_max,
        wait_max_s=s.shed_wait_ms / 1000,
    )


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("background work ended", exc_info=task.exception())


@contextlib.asynccontextmanager
async def stop_signals() -> AsyncIterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set; a second one ends the process as usual."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def told(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told, number)
    yield stop
