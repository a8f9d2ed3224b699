"""Namespaces that have more memories than they may: the fallback prunes them, within the guards. What is over a guard waits."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence

from sfm_grpc.coordinator.pruner import PruneCoordinator, PruneMutation
from sfm_grpc.errors import Overloaded, SfmError, StoreUnavailable
from sfm_grpc.model import Scope, Space
from sfm_grpc.storage.contract import Store

_log = logging.getLogger(__name__)

_PAUSE_S = 1.0
_FORGET_EVERY_S = 60.0
_AT_ONCE = 100
# A plan that nobody applied is looked at for so long after its time is over, at least.
_PLANS_KEPT_S = 7 * 86_400
_COMMITTER = "memory-limit"


class PruneLimits:
    """Looks for them every second, and takes away what can be undone no more."""

    def __init__(self, store: Store, pruner: PruneCoordinator, *, request_age_s: int) -> None:
        """`request_age_s`: as long as requests are remembered, so are plans: what applied one may be asked again."""
        self._store = store
        self._pruner = pruner
        self._plans_kept_us = max(_PLANS_KEPT_S, request_age_s) * 1_000_000

    async def run(self) -> None:
        """Works until it is cancelled."""
        forgotten = -math.inf
        while True:
            try:
                if time.monotonic() - forgotten >= _FORGET_EVERY_S:
                    forgotten = time.monotonic()
                    now_us = time.time_ns() // 1000
                    await self._store.prunes.forget(now_us, now_us - self._plans_kept_us)
                await self.enforce()
            except (StoreUnavailable, Overloaded) as error:
                _log.warning("memory limits wait for the store: %s", error)
            except Exception:  # whatever is wrong just now, namespaces must not grow for ever
                _log.exception("keeping memory limits failed")
            await asyncio.sleep(_PAUSE_S)

    async def enforce(self) -> int:
        """Prunes what is over its limit; how many namespaces. Raises StoreUnavailable, Overloaded."""
        done, after = 0, None
        while found := await self._store.prunes.over_limit(after=after, limit=_AT_ONCE):
            done += await self._enforce_each(found)
            after = found[-1][0]
            if len(found) < _AT_ONCE:
                break
        return done

    async def _enforce_each(self, found: Sequence[tuple[Scope, Space]]) -> int:
        done = 0
        for scope, space in found:
            mutation = PruneMutation("MemoryLimit", scope, "", _COMMITTER, math.inf)
            try:
                done += await self._pruner.keep_limit(mutation, space.memories_max)
            except (StoreUnavailable, Overloaded):
                raise
            except SfmError as error:  # somebody wrote to it meanwhile: the next look finds out
                _log.info("the limit of %r is kept a little later: %s", scope.namespace, error)
            except Exception:  # whatever is wrong with one namespace, the others must not grow for ever
                _log.exception("keeping the limit of %r failed", scope.namespace)
        return done
