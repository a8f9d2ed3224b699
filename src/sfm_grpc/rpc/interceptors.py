"""What happens to every call before and after its servicer: one pass, not a stack of proxies.

Request id, admission control (`load`), deadline, metrics, and errors into google.rpc.Status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
from grpc.aio import ServerInterceptor

from sfm_grpc.errors import (
    DeadlineExceeded,
    Draining,
    InternalError,
    LimitExceeded,
    SfmError,
    StoreUnavailable,
    VersionConflict,
)
from sfm_grpc.metrics import LatencyWindow, Metrics
from sfm_grpc.rpc.caller import REQUEST_ID_KEY, Context, metadata_value, remaining_of
from sfm_grpc.rpc.errors import DETAILS_KEY, code_of, status_of
from sfm_grpc.rpc.load import LARGE_BYTES, Load

_log = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Details: TypeAlias = grpc.HandlerCallDetails
# A stream of requests is what it iterates over.
Answering: TypeAlias = Callable[[Any, Context], Awaitable[bytes | None]]
# Set by gRPC on a call that it makes again (gRFC A6).
_ATTEMPTS_KEY = "grpc-previous-rpc-attempts"
_MUTATIONS = (
    "/CommitRho",
    "/RestoreRho",
    "/PutMemory",
    "/BatchPutMemories",
    "/DeleteMemory",
    "/BatchDeleteMemories",
    "/UndeleteMemories",
    "/PurgeMemories",
)
_REQUEST_ID_CHARS_MAX = 128

# What a message may have besides its numbers and still be within the limit on numbers.
HEADROOM_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class CallRules:
    """What calls are held to."""

    deadline_default_s: float
    deadline_max_s: float
    message_bytes_max: int
    slow_s: float


class CallGuard(ServerInterceptor):
    """Guards the calls of our own services; health checks and reflection pass, they must answer when nothing else does."""

    def __init__(self, rules: CallRules, load: Load, metrics: Metrics, windows: dict[str, LatencyWindow], package: str) -> None:
        self._rules = rules
        self._load = load
        self._metrics = metrics
        self._windows = windows
        self._prefix = f"/{package}."
        self._ways: dict[str, _Ways] = {}
        self._draining = False
        self._streams: set[asyncio.Timeout] = set()

    def end_streams(self) -> None:
        """Tells the callers of streams to go elsewhere: DRAINING. New ones are refused."""
        self._draining = True
        while self._streams:
            self._streams.pop().reschedule(asyncio.get_running_loop().time())

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler | None]], handler_call_details: Details
    ) -> Handler | None:
        """See grpc.aio.ServerInterceptor."""
        self._load.taken += 1
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(self._prefix):
            return handler
        ways = self._ways.get(method)
        if ways is None:
            ways = self._ways[method] = _Ways(self._wrap(handler, method), self._refusing(method))
        return ways.refusing if self._load.shedding and not _is_exempt(method) else ways.handler

    def _wrap(self, handler: Handler, method: str) -> Handler:
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(self._guarded(method, self._conversing(handler), streams=True))
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(self._guarded(method, self._streamed(handler), streams=True))
        return grpc.unary_unary_rpc_method_handler(self._guarded(method, self._answered(handler, method)))

    def _guarded(self, method: str, answer: Answering, *, streams: bool = False) -> Answering:
        """`answer` with what every call has: its id, its place in the metrics, and errors as the caller is to be told of them."""
        _, service, name = method.split("/")
        counted = self._metrics.call(service, name)
        window = self._windows.get(name)
        slow_s = math.inf if streams else self._rules.slow_s

        async def guarded(request: Any, context: Context) -> bytes | None:
            started = time.perf_counter()
            counted.start()
            request_id = _given_request_id(context)
            code = "OK"
            waited_s = self._load.waited_s
            try:
                if request_id:
                    context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
                return await answer(request, context)
            except Exception as error:
                request_id = request_id or secrets.token_hex(8)
                told = self._told(error, context, method, request_id)
                code = code_of(told).name
                self._metrics.failed(told)
                await _abort(context, told, request_id)
            except asyncio.CancelledError:
                remaining_s = remaining_of(context)
                code = "CANCELLED" if remaining_s is None or remaining_s > 0 else "DEADLINE_EXCEEDED"
                raise
            finally:
                seconds = time.perf_counter() - started
                counted.done(code, seconds)
                if window is not None and code == "OK":
                    window.add(waited_s + seconds)
                if seconds > slow_s:
                    _log.warning("slow: %s %s in %.0f ms", method, code, seconds * 1000, extra={"request_id": request_id})

        return guarded

    def _answered(self, handler: Handler, method: str) -> Answering:
        """One answer, within its deadline, if there is room for it."""
        exempt, refusable, load = _is_exempt(method), not method.endswith(_MUTATIONS), self._load
        inner: Callable[[bytes, Context], Awaitable[bytes]] = handler.unary_unary  # type: ignore[assignment]

        async def answered(request: bytes, context: Context) -> bytes:
            size, held = len(request), False
            load.begin(size)
            try:
                if not exempt:
                    load.check(size)
                work = inner(request, context)
                if size >= LARGE_BYTES:
                    # Counted until its work ends, also where its caller has given up meanwhile.
                    held, work = True, self._to_its_end(work, size)
                limit_s = self._limit_s(context)
                if limit_s is None:
                    answer = self._sendable(await work)
                else:
                    async with asyncio.timeout(limit_s):
                        answer = self._sendable(await work)
                load.answer(len(answer), context, refusable=refusable)
                return answer
            finally:
                if not held:
                    load.end(size)

        return answered

    def _streamed(self, handler: Handler) -> Answering:
        """Answers until the caller has enough, or the server is about to stop. Each is made when the one before has left."""
        inner: Callable[[bytes, Context], AsyncGenerator[bytes, None]] = handler.unary_stream  # type: ignore[assignment]

        async def streamed(request: bytes, context: Context) -> None:
            async with contextlib.aclosing(inner(request, context)) as answers:
                while (answer := await self._next_unless_draining(answers)) is not None:
                    await context.write(self._sendable(answer))

        return streamed

    def _conversing(self, handler: Handler) -> Answering:
        """Takes requests until the server is about to stop; what has been received by then is answered."""
        inner: Callable[[AsyncIterator[bytes], Context], AsyncGenerator[bytes, None]] = handler.stream_stream  # type: ignore[assignment]

        async def conversing(requests: AsyncIterator[bytes], context: Context) -> None:
            async with contextlib.aclosing(inner(self._until_draining(requests), context)) as answers:
                async for answer in answers:
                    await context.write(self._sendable(answer))

        return conversing

    async def _until_draining(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        while (request := await self._next_unless_draining(requests)) is not None:
            yield request

    async def _next_unless_draining(self, stream: AsyncIterator[bytes]) -> bytes | None:
        """The next of a stream; None: it has ended. Raises Draining as soon as the server is about to stop.

        Only this is given up then: an answer that is on its way is not cut, or its caller would be told nothing of why.
        """
        if self._draining:
            raise Draining
        try:
            async with asyncio.timeout(None) as end:
                self._streams.add(end)
                try:
                    return await anext(stream, None)
                finally:
                    self._streams.discard(end)
        except TimeoutError:
            if end.expired():
                raise Draining from None
            raise

    def _refusing(self, method: str) -> Handler:
        """Refuses without receiving the request, at half of what refusing it in `guarded` would cost."""
        _, service, name = method.split("/")
        counted = self._metrics.call(service, name)

        async def refuse(_requests: object, context: Context) -> bytes:
            counted.start()
            refusal = self._load.refusal()
            counted.done(code_of(refusal.error).name, 0.0)
            self._metrics.failed(refusal.error)
            await _abort(context, refusal.error, _given_request_id(context) or secrets.token_hex(8), refusal.details)

        return grpc.stream_unary_rpc_method_handler(refuse)

    async def _to_its_end(self, work: Awaitable[bytes], size: int) -> bytes:
        """Answers as `work` does. What threads have begun goes on without its caller, so its bytes stay counted until then."""
        task = asyncio.ensure_future(work)

        def ended(_: object) -> None:
            self._load.end(size)
            if not task.cancelled():
                task.exception()  # its caller may be gone, and is the only one who would care

        task.add_done_callback(ended)
        return await asyncio.shield(task)

    def _sendable(self, answer: bytes) -> bytes:
        """The answer, if gRPC will send it: it would tell the caller nothing of why not."""
        limit = self._rules.message_bytes_max
        if len(answer) > limit + HEADROOM_BYTES:
            raise LimitExceeded(limit="message_bytes_max", value=len(answer), maximum=limit)
        return answer

    def deadline(self, context: Context) -> float:
        """When the call must be done, on time.monotonic(): its own deadline, cut to the limit, or the default."""
        limit_s = self._limit_s(context)
        remaining = remaining_of(context)
        return time.monotonic() + (limit_s if limit_s is not None else remaining if remaining is not None else 0.0)

    def _limit_s(self, context: Context) -> float | None:
        """The time we must keep ourselves: the default for a call without a deadline, the largest for one beyond it.

        None: gRPC cancels the call at its own deadline. No call is without one.
        """
        remaining = remaining_of(context)
        if remaining is None:
            return self._rules.deadline_default_s
        return self._rules.deadline_max_s if remaining > self._rules.deadline_max_s else None

    def _told(self, error: Exception, context: Context, method: str, request_id: str) -> SfmError:
        """The error the caller is told. A defect is told by its request id only; its cause is logged."""
        call = {"request_id": request_id}
        if (
            isinstance(error, (StoreUnavailable, Draining))
            and method.endswith(_MUTATIONS)
            and metadata_value(context, _ATTEMPTS_KEY)
        ):
            # gRPC repeats an UNAVAILABLE call by itself and shows its caller the last answer only: what an earlier one left
            # unknown is unknown still.
            problem = error.problem if isinstance(error, StoreUnavailable) else error.sentence()
            error = StoreUnavailable(problem=problem, outcome_unknown=True)
        if isinstance(error, SfmError):
            if isinstance(error, StoreUnavailable):
                _log.error("%s: %s", method, error, extra=call)
            elif isinstance(error, VersionConflict):
                _log.info("%s: %s", method, error, extra=call)
            return error
        if isinstance(error, TimeoutError):
            ours = self._rules.deadline_default_s if remaining_of(context) is None else self._rules.deadline_max_s
            return DeadlineExceeded(deadline_ms=round(ours * 1000))
        _log.exception("%s failed", method, extra=call)
        return InternalError(request_id=request_id)


@dataclass(frozen=True, slots=True)
class _Ways:
    """One method's two ways."""

    handler: Handler
    refusing: Handler


def _is_exempt(method: str) -> bool:
    """Questions about the server itself are answered also when it is full or going."""
    return ".Health/" in method


async def _abort(context: Context, error: SfmError, request_id: str, details: bytes | None = None) -> NoReturn:
    trailing = ((DETAILS_KEY, details or status_of(error).SerializeToString()), (REQUEST_ID_KEY, request_id))
    try:
        await context.abort(code_of(error), error.sentence(), trailing)
    except grpc.aio.InternalError as gone:
        # The call ended while it was told: there is nobody to tell, and gRPC would log it as a defect.
        raise asyncio.CancelledError from gone
    raise AssertionError("abort returns never")


def _given_request_id(context: Context) -> str:
    """The caller's own id of this call, for logs; '' when it gave none, or one that does not belong into a log."""
    given = metadata_value(context, REQUEST_ID_KEY)
    return given if len(given) <= _REQUEST_ID_CHARS_MAX and given.isprintable() else ""
