"""sfm.v1.RhoStore: check, call, translate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple, TypeAlias, cast

from sfm.v1 import matrix_pb2, rho_store_pb2
from sfm.v1.rho_store_pb2 import CommitRhoResponse, ListRhoVersionsResponse, RestoreRhoResponse

from sfm_grpc.coordinator.caches import Caches
from sfm_grpc.coordinator.reads import Answer, Query, Reads
from sfm_grpc.coordinator.rho import Mutation, RhoCoordinator
from sfm_grpc.coordinator.watches import Bookmark, Emission, Watch, Watches
from sfm_grpc.errors import InvalidRequest
from sfm_grpc.metrics import Metrics
from sfm_grpc.rpc import convert, memory_convert
from sfm_grpc.rpc.caller import Context, committer_of, scope_of, tenant_of

# How long a finished answer may be used again before its `as_of_time` is written anew: that may be a second old.
_READY_US = 900_000
_READY_KEPT = 8
# Joining more than this, or another form than the stored numbers, takes too long for the event loop.
_LARGE_BYTES = 4 << 20
_KNOWN_MAX = 1024
_KNOWN_BYTES_MAX = 1024
_READY_FORMS = (matrix_pb2.MATRIX_FORM_UNSPECIFIED, matrix_pb2.MATRIX_FORM_DATA)

_Asked: TypeAlias = tuple[Query, matrix_pb2.MatrixForm.ValueType]


class RhoStoreServicer:
    """The RPCs of RhoStore. CommitRho takes and GetRho gives raw bytes, so that numbers are not copied."""

    def __init__(
        self,
        rho: RhoCoordinator,
        reads: Reads,
        watches: Watches,
        caches: Caches,
        metrics: Metrics,
        *,
        deadline: Callable[[Context], float],
        fields_bytes_max: int,
        batch_bytes_max: int,
    ) -> None:
        self._deadline = deadline
        self._fields_bytes_max = fields_bytes_max
        self._batch_bytes_max = batch_bytes_max
        self._rho = rho
        self._reads = reads
        self._watches = watches
        self._emitted = metrics.watch_events
        self._caches = caches
        self._known: dict[tuple[str, bytes], _Asked] = {}
        self._sources = {cached: metrics.read_source.labels(name) for cached, name in ((True, "cache"), (False, "canonical"))}

    async def CommitRho(self, raw: bytes, context: Context) -> CommitRhoResponse:  # noqa: N802
        """See rho_store.proto."""
        request, bodies = convert.commit_request(raw, self._fields_bytes_max, self._batch_bytes_max)
        mutation = self._mutation(request, context)
        memories = memory_convert.sent_changes(request.memories)
        done = await self._rho.commit(mutation, convert.updates(request.updates, bodies), memories)
        return CommitRhoResponse(
            version=done.result.number,
            commit_time=convert.timestamp(done.result.commit_time_us),
            receipts=[convert.receipt(r) for r in done.receipts],
            replayed=done.result.replayed,
            memories=memory_convert.receipts(done.result.memories),
        )

    def _mutation(self, request: convert.MutationRequest, context: Context) -> Mutation:
        return convert.mutation(request, scope_of(context, request.namespace), committer_of(context), self._deadline(context))

    async def GetRho(self, raw: bytes, context: Context) -> bytes:  # noqa: N802
        """See rho_store.proto."""
        query, form = self._asked(raw, context)
        answer = await self._reads.get(query)
        self._sources[answer.cached].inc()
        return await _finished(answer, query, form)

    def _asked(self, raw: bytes, context: Context) -> _Asked:
        """What a read asks for. Most repeat the one before: the same bytes of the same tenant are not parsed again."""
        place = (tenant_of(context), raw)
        asked = self._known.get(place)
        if asked is None:
            request = convert.parsed(rho_store_pb2.GetRhoRequest, raw, self._fields_bytes_max)
            asked = convert.query(request, scope_of(context, request.namespace)), request.form
            if len(raw) <= _KNOWN_BYTES_MAX:
                if len(self._known) >= _KNOWN_MAX:
                    self._known.clear()
                self._known[place] = asked
        return asked

    async def ListRhoVersions(  # noqa: N802
        self, request: rho_store_pb2.ListRhoVersionsRequest, context: Context
    ) -> ListRhoVersionsResponse:
        """See rho_store.proto."""
        history = await self._rho.history(scope_of(context, request.namespace), request.page_size, request.page_token)
        # A page of many keys is thousands of messages: on a thread the loop gets its turn in between.
        return await asyncio.to_thread(convert.history, history)

    async def RestoreRho(  # noqa: N802
        self, request: rho_store_pb2.RestoreRhoRequest, context: Context
    ) -> RestoreRhoResponse:
        """See rho_store.proto."""
        target = request.WhichOneof("target")
        if target is None:
            raise InvalidRequest(field="target", problem="is required: version or last_valid")
        mutation = self._mutation(request, context)
        done = await self._rho.restore(mutation, request.version if target == "version" else None)
        return RestoreRhoResponse(
            version=done.version,
            commit_time=convert.timestamp(done.commit_time_us),
            restored_version=done.restored_version,
            entries=convert.entries(done.entries),
            replayed=done.replayed,
        )

    async def GetRhoCache(  # noqa: N802
        self, request: rho_store_pb2.GetRhoCacheRequest, context: Context
    ) -> rho_store_pb2.GetRhoCacheResponse:
        """See rho_store.proto."""
        tenant = scope_of(context, request.namespace).tenant
        return convert.cache_report(await self._caches.report(tenant, request.namespace, request.page_size, request.page_token))

    async def SetRhoCache(  # noqa: N802
        self, request: rho_store_pb2.SetRhoCacheRequest, context: Context
    ) -> rho_store_pb2.SetRhoCacheResponse:
        """See rho_store.proto."""
        tenant = scope_of(context, request.namespace).tenant
        count = await self._caches.set(tenant, request.namespace, every=request.all, enabled=request.enabled)
        return rho_store_pb2.SetRhoCacheResponse(namespaces=count)

    async def WatchRho(  # noqa: N802
        self, request: rho_store_pb2.WatchRhoRequest, context: Context
    ) -> AsyncGenerator[bytes, None]:
        """See rho_store.proto."""
        watch = convert.watch(request, scope_of(context, request.namespace))
        async with contextlib.aclosing(self._watches.follow(watch)) as stream:
            async for told in stream:
                if isinstance(told, Bookmark):
                    message = convert.bookmark(told)
                else:
                    self._emitted.inc()
                    message = await _emitted(told, watch, request.form)
                # While a slow caller takes the message, nothing else is held for it.
                del told
                yield message


class _Selected(NamedTuple):
    """What a finished answer depends on besides the snapshot it was made of."""

    keys: tuple[str, ...]
    form: matrix_pb2.MatrixForm.ValueType
    numbers: bool
    newest: bool
    not_modified: bool


async def _finished(answer: Answer, query: Query, form: matrix_pb2.MatrixForm.ValueType) -> bytes:
    """The answer as bytes; the same bytes again while nothing but the moment changed."""
    snapshot = answer.snapshot
    selected = _Selected(query.keys, form, query.numbers, answer.newest, answer.not_modified)
    made = snapshot.ready.get(selected)
    if answer.cached and not answer.degraded and isinstance(made, tuple) and snapshot.as_of_us - made[0] < _READY_US:
        ready: bytes = made[1]
        return ready
    as_of_us = snapshot.as_of_us
    if query.numbers and not answer.not_modified and (form not in _READY_FORMS or snapshot.size_bytes > _LARGE_BYTES):
        ready = await asyncio.to_thread(convert.answer, answer, form, numbers=True)
    else:
        ready = convert.answer(answer, form, numbers=query.numbers)
    if answer.cached and not answer.degraded:
        _keep_ready(snapshot.ready, selected, (as_of_us, ready))
    return ready


def _keep_ready(kept: dict[object, object], selected: _Selected, made: tuple[int, bytes]) -> None:
    """Keeps a finished answer: one with numbers (the cache counts on no more), a few without."""
    with_numbers = selected.numbers and not selected.not_modified
    same = [s for s in kept if isinstance(s, _Selected) and (s.numbers and not s.not_modified) is with_numbers]
    if with_numbers or len(same) >= _READY_KEPT:
        for old in same:
            del kept[old]
    kept[selected] = made


async def _emitted(told: Emission, watch: Watch, form: matrix_pb2.MatrixForm.ValueType) -> bytes:
    """A version as bytes: made once for all streams that want the same of it at this moment."""
    selected = (watch.keys, form, watch.numbers)
    made = told.ready.get(selected)
    if made is None:
        size = sum(map(len, told.numbers.values())) if watch.numbers else 0
        if size and (form not in _READY_FORMS or size > _LARGE_BYTES):
            made = asyncio.create_task(asyncio.to_thread(convert.emission, told, watch.keys, form, numbers=True))
        else:
            made = convert.emission(told, watch.keys, form, numbers=watch.numbers)
        told.ready[selected] = made
    return await asyncio.shield(made) if isinstance(made, asyncio.Task) else cast(bytes, made)
