"""Every metric, in one place. Label children are made once: looking them up costs more than counting."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import Counter as Counted
from collections import deque
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from sfm_grpc.errors import Overloaded, SfmError

# Seconds. The latency guard's bound, 60 ms, is an edge.
_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_BYTES = tuple(float(1 << p) for p in range(12, 28, 2))
_STEPS = tuple(10.0**p for p in range(-9, 1))


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        ProcessCollector(registry=r)
        PlatformCollector(registry=r)
        GCCollector(registry=r)

        # The given names: the worst namespace speaks.
        self.rho_psd_ok = Gauge(
            "somabrain_rho_psd_ok", "1 when every density matrix is certified PSD and none is corrupt", registry=r
        )
        self.rho_trace_error = Gauge("somabrain_rho_trace_norm_error", "Largest |tr ρ − 1| of any namespace", registry=r)
        self.rho_degraded = Gauge("somabrain_rho_degraded_mode", "1 while reads are served without their fast path", registry=r)

        self._calls = _Calls()
        r.register(self._calls)
        self.calls_in_flight = Gauge("sfm_calls_in_flight", "Calls being worked on", registry=r)
        self.bytes_in_flight = Gauge("sfm_request_bytes_in_flight", "Bytes of requests being worked on", registry=r)
        self.answer_bytes_in_flight = Gauge(
            "sfm_answer_bytes_in_flight", "Bytes of large answers that the network has not taken yet", registry=r
        )
        self.call_wait = Gauge("sfm_call_wait_seconds", "How long the oldest call has waited for its turn", registry=r)
        self.shedding = Gauge("sfm_shedding", "1 while calls are refused because others wait too long", registry=r)

        self.errors = Counter("sfm_errors", "Calls that failed, by reason", ("reason",), registry=r)
        self.shed = Counter("sfm_calls_shed", "Calls refused because of the load, by limit", ("limit",), registry=r)
        self.read_source = Counter("sfm_rho_reads", "Reads of ρ, by where the answer came from", ("source",), registry=r)
        self.commit_bytes = Histogram("sfm_rho_commit_bytes", "Bytes of numbers in one commit", buckets=_BYTES, registry=r)
        self.commits = Counter("sfm_rho_commits", "Versions made", registry=r)
        self.clamped = Counter("sfm_rho_clamped", "Matrices clamped on admission", registry=r)
        self.step = Histogram("sfm_rho_step", "‖Δρ‖_F from one version to the next", buckets=_STEPS, registry=r)
        self.namespaces = Gauge("sfm_rho_namespaces", "Namespaces with a commit", registry=r)
        self.corrupt = Gauge(
            "sfm_rho_corrupt_namespaces", "Namespaces whose stored numbers fail their digest or proof", registry=r
        )
        self.verifications = Counter("sfm_rho_verifications", "Stored matrices re-read and proved again", registry=r)
        self.cache_bytes = Gauge("sfm_rho_cache_bytes", "Memory of matrices that are ready to be read", registry=r)
        self.compacted = Counter("sfm_rho_versions_compacted", "Versions taken away by retention", registry=r)
        self.expired = Counter("sfm_memories_expired", "Memories purged because they had expired", registry=r)
        self.buried = Counter("sfm_memories_buried", "Tombstones of memories taken away", registry=r)
        self.watch_streams = Gauge("sfm_watch_streams", "Streams of WatchRho that are open", registry=r)
        self.watch_events = Counter("sfm_watch_events", "Versions emitted by WatchRho, once for each stream", registry=r)
        self.bulk_streams = Gauge("sfm_bulk_streams", "Streams of ImportMemories and ExportMemories that are open", registry=r)
        self.imported_lines = Counter("sfm_imported_lines", "Lines of imports, by what became of them", ("outcome",), registry=r)
        self.latency_p95 = Gauge("sfm_latency_p95_seconds", "p95 over the sliding window", ("operation",), registry=r)
        self.loop_lag = Gauge("sfm_event_loop_lag_seconds", "How late the event loop's last tick was", registry=r)
        self.ready = Gauge("sfm_ready", "1 while the server is ready", registry=r)
        self.store = StoreMetrics(r)
        self.cache = CacheMetrics(r)
        self.index = IndexMetrics(r)
        self.events = EventMetrics(r)
        self.orders = OrderMetrics(r)

    def call(self, service: str, method: str) -> CallMetrics:
        """The metrics of one method."""
        return self._calls.of(service, method)

    def failed(self, error: SfmError) -> None:
        """Counts a call that ended in `error`."""
        self.errors.labels(error.reason).inc()
        if isinstance(error, Overloaded):
            self.shed.labels(error.limit).inc()


class StoreMetrics:
    """The connections to a store beyond this process; all 0 where there is none."""

    def __init__(self, r: CollectorRegistry) -> None:
        self.connections = Gauge("sfm_store_connections", "Connections to the store that are open", registry=r)
        self.connections_max = Gauge("sfm_store_connections_max", "Connections to the store at most", registry=r)
        self.busy = Gauge("sfm_store_connections_busy", "Connections to the store that are in use", registry=r)
        self.waiting = Gauge("sfm_store_waiting", "Calls waiting for a connection to the store", registry=r)
        self.wait_seconds = Histogram(
            "sfm_store_wait_seconds", "Time until a call had a connection to the store", buckets=_SECONDS, registry=r
        )
        self.exhausted = Counter("sfm_store_exhausted", "Calls refused because every connection was in use", registry=r)


class CacheMetrics:
    """The cache before the store: leases in Redis; all 0 where there is none."""

    def __init__(self, r: CollectorRegistry) -> None:
        self.open = Gauge("sfm_cache_breaker_open", "1 while the cache is not asked, because it did not answer", registry=r)
        self.checks = Counter("sfm_cache_checks", "Checks of which version is live, by what they found", ("found",), registry=r)
        self.failures = Counter("sfm_cache_failures", "Calls to the cache that failed or took too long", ("call",), registry=r)
        self.refused = Counter("sfm_cache_fills_refused", "Fills that the cache refused, by reason", ("reason",), registry=r)
        self.fence_seconds = Histogram(
            "sfm_cache_fence_seconds", "Time until a version could be told after its commit", buckets=_SECONDS, registry=r
        )
        self.drains = Counter(
            "sfm_cache_drains", "Namespaces whose cache was turned off until its last lease ran out", registry=r
        )
        self.draining = Gauge("sfm_cache_draining_namespaces", "Namespaces being drained by this process", registry=r)
        self.registrations = Counter("sfm_cache_registrations", "Namespaces whose cache was turned on", registry=r)
        self.strange = Gauge(
            "sfm_cache_strange_namespaces", "Namespaces lately read here whose registered cache is not this one", registry=r
        )


class IndexMetrics:
    """The vector index and how far it is behind."""

    def __init__(self, r: CollectorRegistry) -> None:
        self.ok = Gauge("sfm_index_ok", "1 while the vector index answers", registry=r)
        self.behind = Gauge(
            "sfm_index_behind_revisions", "Writes that the vector index did not have at the last look", registry=r
        )
        self.lag_seconds = Gauge(
            "sfm_index_lag_seconds", "Age of the oldest write that the vector index did not have at the last look", registry=r
        )
        self.applied = Counter("sfm_index_applied", "Memories sent to the vector index", registry=r)
        self.refused = Counter("sfm_index_refused", "Memories that the vector index does not take", registry=r)
        self.apply_seconds = Histogram(
            "sfm_index_apply_seconds", "Time of one batch to the vector index", buckets=_SECONDS, registry=r
        )


class EventMetrics:
    """Events on their way to Kafka; all 0 where there is none."""

    def __init__(self, r: CollectorRegistry) -> None:
        self.ok = Gauge("sfm_events_sink_ok", "1 while Kafka takes events", registry=r)
        self.unsent = Gauge("sfm_events_unsent", "Events that Kafka did not have at the last look", registry=r)
        self.lag_seconds = Gauge(
            "sfm_events_lag_seconds", "Age of the oldest event that Kafka did not have at the last look", registry=r
        )
        self.dropped = Gauge(
            "sfm_events_dropped", "Events that were taken away before Kafka had them, by any replica", registry=r
        )
        self.sent = Counter("sfm_events_sent", "Events that Kafka acknowledged to this process", ("topic",), registry=r)
        self.failed = Counter("sfm_events_failed", "Batches of events that Kafka refused, or that were given up", registry=r)
        self.send_seconds = Histogram(
            "sfm_events_send_seconds", "Time until Kafka had acknowledged a batch", buckets=_SECONDS, registry=r
        )
        self.streams = Gauge("sfm_events_streams", "Streams of TailEvents that are open", registry=r)


class OrderMetrics:
    """Orders that come from Kafka; all 0 where there is none."""

    def __init__(self, r: CollectorRegistry) -> None:
        self.ok = Gauge("sfm_orders_ok", "1 while orders come from Kafka and are carried out", registry=r)
        self.done = Counter(
            "sfm_orders",
            "Orders by what became of them: applied, known (carried out or planned before), waiting, refused",
            ("outcome",),
            registry=r,
        )
        self.retried = Counter("sfm_orders_retried", "Attempts at an order that have to be made again", registry=r)
        self.waiting = Gauge(
            "sfm_orders_waiting", "Orders in this process's partitions that it had not taken at the last look", registry=r
        )


class CallMetrics:
    """What one method did, in plain numbers: counted on the event loop alone, so without locks, which cost more than counting."""

    __slots__ = ("buckets", "codes", "seconds", "started")

    def __init__(self) -> None:
        self.started = 0
        self.codes: dict[str, int] = {}
        self.buckets = [0] * (len(_SECONDS) + 1)
        self.seconds = 0.0

    def start(self) -> None:
        """Counts a call that begins."""
        self.started += 1

    def done(self, code: str, seconds: float) -> None:
        """Counts a call that ended with `code`."""
        self.codes[code] = self.codes.get(code, 0) + 1
        self.buckets[bisect_left(_SECONDS, seconds)] += 1
        self.seconds += seconds


class _Calls(Collector):
    """The metrics of all methods, under gRPC's usual names, when they are scraped."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], CallMetrics] = {}

    def of(self, service: str, method: str) -> CallMetrics:
        """The metrics of one method."""
        return self._of.setdefault((service, method), CallMetrics())

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        labels = ("grpc_service", "grpc_method")
        started = CounterMetricFamily("grpc_server_started", "Calls started", labels=labels)
        handled = CounterMetricFamily("grpc_server_handled", "Calls completed, by status code", labels=(*labels, "grpc_code"))
        seconds = HistogramMetricFamily("grpc_server_handling_seconds", "Time from request to answer", labels=labels)
        for names, call in self._of.items():
            started.add_metric(names, call.started)
            for code, count in call.codes.items():
                handled.add_metric((*names, code), count)
            counts = [float(n) for n in accumulate(call.buckets)]
            edges = [*map(str, _SECONDS), "+Inf"]
            seconds.add_metric(names, list(zip(edges, counts, strict=True)), sum_value=call.seconds)
        yield from (started, handled, seconds)


# Places of LatencyWindow: 2^(1/32) apart, so that a p95 is right within 2.2 %; the latency guard's bound, 60 ms, is an edge.
_PLACES_PER_DOUBLING = 32
_EDGE_LOG2 = math.log2(0.06)
_SHORTEST_S = 1e-6
_SLICES = 60


class LatencyWindow:
    """Latencies of the last while, for a p95 that says how it is now rather than since the start.

    Every call counts, at any rate: it is counted in its place of a histogram of a slice (a sixtieth) of the window, so that
    what is kept depends on how different latencies are, not on how many.
    """

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self._slice_s = window_s / _SLICES
        self._until_s = -math.inf
        self._counts: dict[int, int] = {}
        self._slices: deque[tuple[float, dict[int, int]]] = deque()
        """When each ended or ends, and its counts."""

    def add(self, seconds: float) -> None:
        """Counts one call. On every call's path: 0.3 µs."""
        now = time.monotonic()
        if now >= self._until_s:
            self._begin(now)
        place = math.ceil((math.log2(max(_SHORTEST_S, seconds)) - _EDGE_LOG2) * _PLACES_PER_DOUBLING)
        self._counts[place] = self._counts.get(place, 0) + 1

    def _begin(self, now: float) -> None:
        self._until_s = now + self._slice_s
        self._counts = {}
        self._slices.append((self._until_s, self._counts))
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._slices and self._slices[0][0] <= now - self.window_s:
            self._slices.popleft()

    def p95(self) -> tuple[float, int]:
        """The 95th percentile (nearest rank) in seconds and how many calls it is of; (0, 0) without calls.

        Rounded up to the edge of its place, by at most 2.2 %, and never over 60 ms what is not.
        """
        self._forget(time.monotonic())
        counts: Counted[int] = Counted()
        for _, of_slice in self._slices:
            counts.update(of_slice)
        total = counts.total()
        rank = math.ceil(0.95 * total)
        for place in sorted(counts):
            rank -= counts[place]
            if rank <= 0:
                return 0.06 * 2.0 ** (place / _PLACES_PER_DOUBLING), total
        return 0.0, 0
