"""`storage.leases.LeaseCache` on Redis: the scripts, and content named by its digest."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from sfm_grpc.metrics import CacheMetrics
from sfm_grpc.model import Buffer, Scope
from sfm_grpc.storage.leases import LEASE_S, CacheUnavailable, Live, Missed, Planted
from sfm_grpc.storage.redis.breaker import Breaker
from sfm_grpc.storage.redis.connection import connected, hang_up, place
from sfm_grpc.storage.redis.line import Caller, Line, ShardedLine, in_a_pipeline
from sfm_grpc.storage.redis.options import RedisOptions
from sfm_grpc.storage.redis.scripts import FILL, PLANT, PUBLISH, READ, Script

_log = logging.getLogger(__name__)

_LEASE_MS = round(LEASE_S * 1000)
# Content that is not live, or not yet: long enough for whoever has just been told of it.
_STAGED_S = 5
_SMALL_BYTES = 16 * 1024
# How long a reader that missed has for its look at the store before another one may fill instead.
_PATIENCE_MS = 100
_PROBE_EVERY_S = 1.0
_PROBE_TIMEOUT_S = 0.25
_PROBED = Scope("", "")  # nobody's: no tenant has an empty name


class RedisCache:
    """One deployment's place in one Redis. Construct, `start`, `close`."""

    def __init__(self, options: RedisOptions, identity: Callable[[], str], metrics: CacheMetrics) -> None:
        """`identity` says which store and history it is that this is a cache of: '' while that is not known."""
        self._options = options
        self._identity = identity
        self._metrics = metrics
        self._breaker = Breaker(options.settle_s)
        self._control = connected(options, timeout_s=options.connect_timeout_s)
        self._line: Caller = Line(self._control) if hasattr(self._control, "connection_pool") else ShardedLine(self._control)
        self._content = connected(options, timeout_s=options.content_timeout_s)
        self._hygiene_ms = round(max(options.content_ttl_s, 60) * 1000)
        self._content_s = max(1, round(options.content_ttl_s))
        self._probing: asyncio.Task[None] | None = None
        self._place = ("", "")
        metrics.open.set_function(lambda: self._breaker.is_open)

    # ---- life

    def start(self) -> None:
        """Begins to ask it how it is, again and again."""
        self._probing = asyncio.create_task(self._probe_for_ever())

    async def close(self) -> None:
        """Lets go."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.wait({self._probing})
        self._line.close()
        await hang_up(self._control)
        await hang_up(self._content)

    async def _probe_for_ever(self) -> None:
        while True:
            if not self._breaker.is_open or self._breaker.is_due():
                await self.probe()
            await asyncio.sleep(_PROBE_EVERY_S if not self._breaker.is_open else 0.05)

    async def probe(self) -> None:
        """Asks whether it can be read and written, with all the time it may need."""
        if not self._identity():
            return
        try:
            missed = await self._read(_PROBED, _PROBE_TIMEOUT_S)
            run = missed.name.partition("/")[0] if isinstance(missed, Missed) else ""
            fenced = await self._run(PUBLISH, _PROBED, _PROBE_TIMEOUT_S, "", run, 0, "", 0, _LEASE_MS, self._hygiene_ms)
            if fenced[0] not in (b"ok", b"foreign"):  # foreign: it was replaced between the two
                raise CacheUnavailable("it does not fence")
        except (RedisError, OSError, CacheUnavailable) as error:
            self._breaker.failed(_in_words(error), at_leisure=True)
        except Exception as error:  # whatever it says that nobody expected, it is not worth asking
            _log.exception("the look at Redis failed")
            self._breaker.failed(type(error).__name__, at_leisure=True)
        else:
            self._breaker.worked()

    @property
    def ok(self) -> bool:
        """See `LeaseCache`."""
        return not self._breaker.is_open and not self._breaker.problem

    @property
    def gone(self) -> bool:
        """See `LeaseCache`."""
        return self._breaker.gone

    @property
    def detail(self) -> str:
        """What it is, and what is wrong with it."""
        where = place(self._options.url)
        return f"Redis at {where}: {self._breaker.problem}" if self._breaker.problem else f"Redis at {where}"

    # ---- names

    def is_ours(self, name: str) -> bool:
        """See `LeaseCache`."""
        return name.partition("/")[2] == self._space()

    def is_settled(self, name: str) -> bool:
        """See `LeaseCache`."""
        return self._breaker.is_settled(name)

    def _space(self) -> str:
        """The deployment's place in any Redis: another store, another line of its history, another lease are strangers."""
        identity = self._identity()
        if identity != self._place[0]:
            told = f"{self._options.prefix}\0{identity}\0{_LEASE_MS}"
            self._place = identity, hashlib.sha256(told.encode()).hexdigest()[:12]
        return self._place[1]

    def _key(self, scope: Scope, content: bytes = b"") -> bytes:
        """The control hash, or content by its digest; all of a namespace in one slot."""
        what = b":" + content.hex().encode() if content else b":lease"
        return b"%s:%s:{%s}%s" % (self._options.prefix.encode(), self._space().encode(), _tag(scope), what)

    def _name(self, run: bytes) -> str:
        name = f"{run.decode()}/{self._space()}"
        self._breaker.answered_as(name)
        return name

    # ---- the protocol

    async def check(self, scope: Scope) -> Live | Missed:
        """See `LeaseCache`."""
        self._check_worth_asking()
        try:
            found = await self._read(scope, self._options.timeout_s)
        except (RedisError, OSError, CacheUnavailable) as error:
            raise self._failed("check", error) from error
        self._breaker.worked()
        return found

    async def _read(self, scope: Scope, timeout_s: float) -> Live | Missed:
        token = secrets.token_bytes(12)
        said = await self._run(READ, scope, timeout_s, token, _PATIENCE_MS, self._hygiene_ms)
        if said[0] == b"live":
            return Live(said[1], said[2])
        _, run, planted, version, manifest, age_ms = said
        if planted < 0:
            self._line.close()  # the master is elsewhere: whoever connects next asks where
            raise CacheUnavailable("it takes no writes: a replica")
        return Missed(self._name(run), token if planted else b"", version, manifest, age_ms / 1000)

    async def plant(self, scope: Scope, expected: int | None) -> Planted:
        """See `LeaseCache`."""
        self._check_worth_asking()
        token, known = secrets.token_bytes(12), -1 if expected is None else expected
        try:
            run, live = await self._run(PLANT, scope, self._options.timeout_s, token, known, self._hygiene_ms)
        except (RedisError, OSError) as error:
            raise self._failed("plant", error) from error
        return Planted(self._name(run), b"" if live else token, live)

    async def fill(self, scope: Scope, missed: Missed, version: int, manifest: bytes) -> bytes | None:
        """See `LeaseCache`."""
        self._check_worth_asking()
        run, timeout_s = missed.name.partition("/")[0], self._options.fence_timeout_s
        try:
            said = await self._run(FILL, scope, timeout_s, missed.token, run, version, manifest, _LEASE_MS, self._hygiene_ms)
        except (RedisError, OSError) as error:
            raise self._failed("fill", error) from error
        if said[0] != b"ok":
            self._metrics.refused.labels(said[0].decode()).inc()
            return None
        return bytes(said[1])

    async def publish(
        self, scope: Scope, planted: Planted | None, registered: str, version: int, manifest: bytes
    ) -> bytes | None:
        """See `LeaseCache`. Not through the breaker: whether a commit may be told is worth a try."""
        run, token = registered.partition("/")[0], planted.token if planted else b""
        told = (token, run, version, manifest, int(bool(token)), _LEASE_MS, self._hygiene_ms)
        try:
            said = await self._run(PUBLISH, scope, self._options.fence_timeout_s, *told)
        except (RedisError, OSError) as error:
            raise self._failed("publish", error) from error
        return bytes(said[1]) if said[0] == b"ok" else None

    async def _run(self, script: Script, scope: Scope, timeout_s: float, *arguments: object) -> Any:
        return await script.run(self._line, timeout_s, self._key(scope), *arguments)

    def _check_worth_asking(self) -> None:
        if self._breaker.is_open:
            raise CacheUnavailable(self._breaker.problem)
        if not self._identity():
            raise CacheUnavailable("the store is not known yet")

    def _failed(self, what: str, error: Exception) -> CacheUnavailable:
        """Tells the breaker; not of a full memory: it answers, only nothing more fits into it."""
        self._metrics.failures.labels(what).inc()
        problem = _in_words(error)
        if not isinstance(error, OutOfMemoryError):
            self._breaker.failed(problem)
        return CacheUnavailable(problem)

    # ---- content

    async def stage(self, scope: Scope, content: Mapping[bytes, Buffer]) -> None:
        """See `LeaseCache`."""
        await self._put(scope, content, _STAGED_S)

    async def hold(self, scope: Scope, content: Mapping[bytes, Buffer | None]) -> None:
        """See `LeaseCache`."""
        there = await self._keep(scope, list(content), self._content_s)
        missing = {n: v for (n, v), found in zip(content.items(), there, strict=True) if v is not None and not found}
        await self._put(scope, missing, self._content_s)

    async def fetch(self, scope: Scope, digests: Sequence[bytes]) -> list[bytes | None]:
        """See `LeaseCache`."""
        if not digests:
            return []
        command = ("MGET", *(self._key(scope, name) for name in digests))
        [found] = await self._asked(in_a_pipeline(self._content, self._options.content_timeout_s, [command]))
        return list(found)

    async def let_go(self, scope: Scope, names: Collection[bytes]) -> None:
        """See `LeaseCache`."""
        await self._keep(scope, list(names), _STAGED_S)

    async def _keep(self, scope: Scope, names: Sequence[bytes], seconds: int) -> list[int]:
        """Has content stay for so long from now on; of each whether it is there."""
        commands = [("EXPIRE", self._key(scope, name), seconds) for name in names]
        return await self._asked(self._line.calls(self._options.content_timeout_s, commands)) if commands else []

    async def _put(self, scope: Scope, content: Mapping[bytes, Buffer], seconds: int) -> None:
        """Puts content; what is large on connections of its own, where nobody waits behind it."""
        small = [(name, bytes(value)) for name, value in content.items() if len(value) <= _SMALL_BYTES]
        large = [(name, value) for name, value in content.items() if len(value) > _SMALL_BYTES]
        for pairs, send in ((small, self._line.calls), (large, partial(in_a_pipeline, self._content))):
            commands = [("SET", self._key(scope, name), value, "EX", seconds) for name, value in pairs]
            if commands:
                await self._asked(send(self._options.content_timeout_s, commands))

    async def _asked(self, work: Awaitable[list[Any]]) -> list[Any]:
        """Raises CacheUnavailable; the breaker is for the scripts."""
        try:
            return await work
        except (RedisError, OSError) as error:
            raise CacheUnavailable(_in_words(error)) from error


@lru_cache(maxsize=16_384)
def _tag(scope: Scope) -> bytes:
    """A name for a namespace that two namespaces do not share: free text may hold braces, and end where another begins."""
    tenant = scope.tenant.encode()
    told = len(tenant).to_bytes(4, "big") + tenant + scope.namespace.encode()
    return hashlib.sha256(told).hexdigest()[:24].encode()


def _in_words(error: Exception) -> str:
    text = " ".join(str(error).split()) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
    if isinstance(error, ResponseError) and "compiling script" in text:
        return "it is older than Redis 7.0"
    return text
