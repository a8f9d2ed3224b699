"""A Qdrant server as it is asked: where it is, how long it may take, and its errors as ours."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from grpc import StatusCode
from grpc.aio import AioRpcError
from qdrant_client import AsyncQdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from sfm_grpc.errors import IndexUnavailable

Codes: TypeAlias = Collection[StatusCode]

GRPC_PORT, _REST_PORT = 6334, 6333
_OLDEST = (1, 19)
"""The first that finds keys by how they begin."""
# Making a collection or an index, and letting go of many points, take as long as they take.
_SLOW_S = 60.0

# A server that is back is found within a second; without these, within two minutes.
_CHANNEL = {
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
}
_PROBLEMS = {
    StatusCode.UNAVAILABLE: "does not answer; is it running, and is this its gRPC port?",
    StatusCode.DEADLINE_EXCEEDED: "does not answer in time",
    StatusCode.UNAUTHENTICATED: "refuses the API key, or wants one",
    StatusCode.PERMISSION_DENIED: "does not allow this to the API key",
    StatusCode.RESOURCE_EXHAUSTED: "has more to do than it can",
    StatusCode.UNIMPLEMENTED: "does not know what it is asked; is it a Qdrant server, 1.19 or newer?",
}


def problem(url: str) -> str:
    """What is wrong with an address, without a word of it: a key may stand in it. '' when nothing is."""
    try:
        parts = urlsplit(url)
        wrong = {
            f"write http://host:{GRPC_PORT}, or https:// for TLS": parts.scheme not in ("http", "https"),
            "it names no host": not parts.hostname,
            "its port is not one": parts.port == 0,
            "it holds a user or a password: the API key is a setting of its own": "@" in parts.netloc,
            "nothing may follow the port": bool(parts.path.strip("/") or parts.query or parts.fragment),
        }
    except ValueError:
        return "its port is not one, or its host is none"
    return next((what for what, is_so in wrong.items() if is_so), "")


class Connection:
    """A channel to a server, from `open` to `close`. All questions raise IndexUnavailable while it is away."""

    def __init__(self, url: str, api_key: str | None, *, timeout_s: float) -> None:
        """Raises ValueError where `problem` has something to say."""
        if what := problem(url):
            raise ValueError(f"this is not a Qdrant address: {what}")
        parts = urlsplit(url)
        self._host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
        self._port = GRPC_PORT if parts.port in (None, _REST_PORT) else parts.port
        self._tls = parts.scheme == "https"
        self._api_key = api_key
        self._timeout_s = timeout_s
        self._client: AsyncQdrantClient | None = None
        self.where = f"Qdrant at {self._host}:{self._port}"

    def open(self) -> None:
        """Nothing is asked yet."""
        if self._client is None:
            self._client = AsyncQdrantClient(
                host=self._host,
                grpc_port=self._port,
                https=self._tls,
                # As its own argument it would warn where there is no TLS, on whatever terms: the settings have decided that.
                headers={"api-key": self._api_key} if self._api_key else None,
                prefer_grpc=True,
                check_compatibility=False,  # would ask by REST, on a thread; we ask ourselves
                grpc_options=dict(_CHANNEL),  # it writes into it
            )

    async def close(self) -> None:
        """Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @property
    def points(self) -> Any:
        """The methods that are about points."""
        return self._opened.grpc_points

    @property
    def collections(self) -> Any:
        """The methods that are about collections."""
        return self._opened.grpc_collections

    @property
    def _opened(self) -> AsyncQdrantClient:
        if self._client is None:
            raise IndexUnavailable(problem=f"{self.where}: the index is closed")
        return self._client

    async def version(self) -> str:
        """The server's, which is one that will do."""
        health = await self.ask(self._health, None)
        if tuple(map(int, re.findall(r"\d+", health.version)[:2])) < _OLDEST:
            raise IndexUnavailable(
                problem=f"{self.where} has version {health.version}, and 1.19 is the oldest that will do; update it"
            )
        return str(health.version)

    async def _health(self, _: None, *, timeout: float) -> Any:  # noqa: ASYNC109  as the other methods have it
        async with asyncio.timeout(timeout):  # the client's own is in whole seconds
            return await self._opened.info()

    async def find(self, method: Any, request: Any, *, slow: bool = False) -> Any:
        """The answer; None where what it is about is not there."""
        try:
            return await self.ask(method, request, slow=slow, but={StatusCode.NOT_FOUND})
        except AioRpcError:
            return None

    async def ask(self, method: Any, request: Any, *, slow: bool = False, but: Codes = ()) -> Any:
        """The answer. Raises IndexUnavailable, and AioRpcError with one of the codes in `but`."""
        try:
            return await method(request, timeout=max(_SLOW_S, self._timeout_s) if slow else self._timeout_s)
        except AioRpcError as error:
            if error.code() in but:
                raise
            raise self.translated(error) from error
        except TimeoutError as error:
            raise IndexUnavailable(problem=f"{self.where} {_PROBLEMS[StatusCode.DEADLINE_EXCEEDED]}") from error
        except ResourceExhaustedResponse as error:
            problem = f"{self.where} {_PROBLEMS[StatusCode.RESOURCE_EXHAUSTED]}"
            raise IndexUnavailable(problem=problem, retry_after_s=float(error.retry_after_s)) from error

    def translated(self, error: AioRpcError) -> IndexUnavailable:
        """The server's error as ours."""
        problem = _PROBLEMS.get(error.code(), f"answers {error.code().name}")
        return IndexUnavailable(problem=f"{self.where} {problem} ({error.details()})")
