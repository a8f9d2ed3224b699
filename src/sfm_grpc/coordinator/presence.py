"""Whether the canonical store is there: opened when it comes, and asked again and again whether it still is."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sfm_grpc.errors import SfmError, StoreRefused, StoreUnavailable
from sfm_grpc.storage.contract import Store

_log = logging.getLogger(__name__)

_CHECK_TIMEOUT_S = 3.0
# How often a store that is there is asked; how soon, and at most how late, one that is not.
_CHECK_S = 2.0
_RETRY_MIN_S = 0.25
_RETRY_MAX_S = 5.0
_NOT_OPENED = "not opened yet"
# How long the ports wait for the store; a schema that is brought up to date may take longer, and a probe would not wait.
_BEGIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Component:
    """A part the server stands on."""

    name: str
    ok: bool
    detail: str
    needed: bool = True
    """Whether the server is as it should be only with it."""


class Presence:
    """The store's state, as the last look at it found it: readiness follows it, liveness never."""

    def __init__(self, store: Store, on_open: Callable[[], Awaitable[None]]) -> None:
        """`on_open` learns what there is to know of an opened store; where it raises StoreUnavailable, it is tried again."""
        self._store = store
        self._on_open = on_open
        self._store_opened = False
        self._opened = False
        """The store is, and what is in it was learned."""
        self._opening: asyncio.Task[None] | None = None
        self.component = Component(store.name, ok=False, detail=_NOT_OPENED)

    @property
    def ok(self) -> bool:
        """It is open, and answered when it was last asked."""
        return self.component.ok

    async def begin(self) -> None:
        """The first try. Raises StoreRefused: that will not mend itself; a store that is away may come later."""
        try:
            async with asyncio.timeout(_BEGIN_S):
                await self._open()
        except StoreRefused:
            raise
        except (StoreUnavailable, TimeoutError) as error:
            problem = error.problem if isinstance(error, StoreUnavailable) else f"opening it takes longer than {_BEGIN_S:g} s"
            _log.warning("serving begins without the store, not ready: %s", problem)
            self._set(ok=False, detail=problem)

    async def end(self) -> None:
        """Stops opening, if that is still under way."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})

    async def run(self, tell: Callable[[bool], Awaitable[None]]) -> None:
        """Looks again and again, sooner while the store is away, and tells what it found; never returns."""
        away = 0
        while True:
            await tell(await self.look())
            away = 0 if self.ok else away + 1
            await asyncio.sleep(_CHECK_S if self.ok else _backoff_s(away))

    async def look(self) -> bool:
        """Opens the store if it is not, asks it how it is; returns whether it answers, within `_CHECK_TIMEOUT_S`."""
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_S):
                await self._open()
                detail = await self._store.check()
            self._set(ok=True, detail=detail)
        except TimeoutError:
            self._set(ok=False, detail=f"does not answer within {_CHECK_TIMEOUT_S:g} s")
        except StoreUnavailable as error:
            self._set(ok=False, detail=error.problem)
        except SfmError as error:  # every connection in use is no reason to send callers elsewhere, but the truth
            self._set(ok=False, detail=str(error))
        except Exception as error:  # whatever a store says that nobody expected, looking must go on
            _log.exception("the look at the store failed")
            self._set(ok=False, detail=f"the look at it failed ({type(error).__name__})")
        return self.ok

    async def _open(self) -> None:
        """Waits for the one opening that is under way, and begins one where there is none; whoever waits may give up."""
        if self._opened:
            return
        if self._opening is None:
            self._opening = asyncio.create_task(self._opens())
            self._opening.add_done_callback(self._opening_ended)
        await asyncio.shield(self._opening)

    async def _opens(self) -> None:
        if not self._store_opened:
            await self._store.open()
            self._store_opened = True
        await self._on_open()
        self._opened = True

    def _opening_ended(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # whoever waits for it is told; there may be nobody just now

    def _set(self, *, ok: bool, detail: str) -> None:
        before, self.component = self.component, Component(self._store.name, ok=ok, detail=detail)
        if before.detail == _NOT_OPENED and ok:
            return  # as it should be
        if ok and not before.ok:
            _log.info("the store is there: %s", detail)
        elif before.ok and not ok:
            _log.error("the store is away: %s", detail)
        elif not ok and before.detail != detail:
            _log.warning("the store is still away: %s", detail)


def _backoff_s(tries: int) -> float:
    """Twice as long each time, and never for all replicas alike."""
    return min(_RETRY_MAX_S, _RETRY_MIN_S * 2.0 ** min(tries, 10)) * random.uniform(0.5, 1)  # noqa: S311
