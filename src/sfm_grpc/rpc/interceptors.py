"""What happens to every call before and after its servicer: one pass, not a stack of proxies.

Request id, admission control (`load`), deadline, metrics, and errors into google.rpc.Status.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
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
# Set by gRPC on a call that it makes again (gRFC A6).
_ATTEMPTS_KEY = "grpc-previous-rpc-attempts"
_MUTATIONS = ("/CommitRho", "/RestoreRho")
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
    """Guards the unary calls of our own services; health checks and reflection pass, they must answer when nothing else does."""

    def __init__(self, rules: CallRules, load: Load, metrics: Metrics, windows: dict[str, LatencyWindow], package: str) -> None:
        self._rules = rules
        self._load = load
        self._metrics = metrics
        self._windows = windows
        self._prefix = f"/{package}."
        self._guarded: dict[str, _Guarded] = {}

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler | None]], handler_call_details: Details
    ) -> Handler | None:
        """See grpc.aio.ServerInterceptor."""
        self._load.taken += 1
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(self._prefix) or handler.unary_unary is None:
            return handler
        guarded = self._guarded.get(method)
        if guarded is None:
            guarded = self._guarded[method] = _Guarded(self._wrap(handler, method), self._refusing(method))
        return guarded.refusing if self._load.shedding and not _is_exempt(method) else guarded.handler

    def _wrap(self, handler: Handler, method: str) -> Handler:
        _, service, name = method.split("/")
        counted = self._metrics.call(service, name)
        window = self._windows.get(name)
        exempt = _is_exempt(method)
        load, refusable = self._load, not method.endswith(_MUTATIONS)
        inner: Callable[[bytes, Context], Awaitable[bytes]] = handler.unary_unary  # type: ignore[assignment]

        async def guarded(request: bytes, context: Context) -> bytes:
            started = time.perf_counter()
            counted.start()
            request_id = _given_request_id(context)
            size = len(request)
            code, held = "OK", False
            waited_s = load.waited_s
            load.begin(size)
            try:
                if request_id:
                    context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
                if not exempt:
                    load.check(size)
                work = inner(request, context)
                if size >= LARGE_BYTES:
                    # Counted until its work ends, also where its caller has given up meanwhile.
                    held, work = True, self._to_its_end(work, size)
                limit_s = self._limit_s(context)
                if limit_s is None:
                    return self._sendable(await work, context, refusable)
                async with asyncio.timeout(limit_s):
                    return self._sendable(await work, context, refusable)
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
                if not held:
                    load.end(size)
                seconds = time.perf_counter() - started
                counted.done(code, seconds)
                if window is not None and code == "OK":
                    window.add(waited_s + seconds)
                if seconds > self._rules.slow_s:
                    _log.warning("slow: %s %s in %.0f ms", method, code, seconds * 1000, extra={"request_id": request_id})

        return grpc.unary_unary_rpc_method_handler(guarded)

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

    def _sendable(self, answer: bytes, context: Context, refusable: bool) -> bytes:
        """The answer, if gRPC will send it (it would tell the caller nothing of why not), and if there is room for it."""
        limit = self._rules.message_bytes_max
        if len(answer) > limit + HEADROOM_BYTES:
            raise LimitExceeded(limit="message_bytes_max", value=len(answer), maximum=limit)
        self._load.answer(len(answer), context, refusable=refusable)
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
class _Guarded:
    """One method's two ways."""

    handler: Handler
    refusing: Handler


def _is_exempt(method: str) -> bool:
    """Questions about the server itself are answered also when it is full or going."""
    return ".Health/" in method


async def _abort(context: Context, error: SfmError, request_id: str, details: bytes | None = None) -> NoReturn:
    trailing = ((DETAILS_KEY, details or status_of(error).SerializeToString()), (REQUEST_ID_KEY, request_id))
    await context.abort(code_of(error), error.sentence(), trailing)
    raise AssertionError("abort returns never")


def _given_request_id(context: Context) -> str:
    """The caller's own id of this call, for logs; '' when it gave none, or one that does not belong into a log."""
    given = metadata_value(context, REQUEST_ID_KEY)
    return given if len(given) <= _REQUEST_ID_CHARS_MAX and given.isprintable() else ""
