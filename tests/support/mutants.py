"""The cache protocol without one of its parts: what a fault test must then find. The product has none of this.

Each part is load-bearing: whoever takes it away and injects the faults that it is there for reads something stale. A test that
stays green without a part does not test it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from sfm_grpc.coordinator.fences import Fences
from sfm_grpc.coordinator.leased import Leases
from sfm_grpc.model import CacheSeen, CacheState, Scope, Version
from sfm_grpc.storage.leases import Missed, Planted
from sfm_grpc.storage.redis import scripts
from sfm_grpc.storage.redis.scripts import Script

Patch = pytest.MonkeyPatch
CLOCK_KEY = "sfm-test:clock"


def without(part: str, patch: Patch) -> None:
    """Takes a part out of this process's product."""
    PARTS[part](patch)


def _script(patch: Patch, script: Script, *pairs: tuple[str, str]) -> None:
    """Changes what a script says."""
    text = script.text
    for old, new in pairs:
        assert text.count(old) == 1, f"{script.name} does not say {old!r} once"
        text = text.replace(old, new)
    patch.setattr(script, "text", text)
    patch.setattr(script, "sha1", hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _token(patch: Patch) -> None:
    """FILL asks for no token: whoever has read the store may fill, however long ago."""
    _script(
        patch,
        scripts.FILL,
        ("if entry[1] ~= run or entry[2] ~= ARGV[1] then\n  return {'token'}\nend\n", ""),
        (
            "local start = tonumber(entry[3])",
            "local time = redis.call('TIME')\nlocal start = tonumber(entry[3] or time[1] * 1000)",
        ),
        ("'version', ARGV[3], 'manifest'", "'run', run, 'version', ARGV[3], 'manifest'"),
    )


def _fence(patch: Patch) -> None:
    """Nobody looks at the fence."""
    _script(patch, scripts.FILL, ("version < tonumber(entry[4] or 0) or ", ""))
    _script(patch, scripts.READ, ("if version and version >= tonumber(entry[6] or 0) then", "if version then"))


def _run_id(patch: Patch) -> None:
    """READ believes what another process wrote."""
    _script(patch, scripts.READ, ("if entry[1] and entry[1] ~= run then", "if false then"))


def _lease(patch: Patch) -> None:
    """What is live stays live."""
    _script(patch, scripts.READ, ("if start <= now and now < tonumber(entry[5]) then", "if true then"))


def _token_time(patch: Patch) -> None:
    """The lease runs from when FILL arrives."""
    _script(
        patch,
        scripts.FILL,
        (
            "local start = tonumber(entry[3])",
            "local time = redis.call('TIME')\nlocal start = time[1] * 1000 + math.floor(time[2] / 1000)",
        ),
    )


def _registered(patch: Patch) -> None:
    """Any Redis will do: each process fills and fences in its own."""
    looked, fenced, plant = Leases.looked, Fences._fenced, Fences.plant
    own: dict[int, str] = {}

    async def planted(self: Fences, scope: Scope, expected: int | None) -> Planted | None:
        found = await plant(self, scope, expected)
        if found is not None:
            own[id(self)] = found.name
        return found

    def looks(self: Leases, scope: Scope, missed: Missed, seen: CacheSeen | None, snapshot: Any) -> None:
        named = replace(seen, name=missed.name) if seen is not None and seen.state is CacheState.ON else seen
        looked(self, scope, missed, named, snapshot)

    async def fences(self: Fences, scope: Scope, number: int, seen: CacheSeen, *more: Any) -> bool:
        return await fenced(self, scope, number, replace(seen, name=own.get(id(self), seen.name)), *more)

    patch.setattr(Fences, "plant", planted)
    patch.setattr(Leases, "looked", looks)
    patch.setattr(Fences, "_fenced", fences)


def _planted_first(patch: Patch) -> None:
    """The writer's token is planted after its COMMIT."""
    plant, fenced = Fences.plant, Fences._fenced

    async def later(self: Fences, scope: Scope, expected: int | None) -> Planted | None:
        found = await plant(self, scope, expected)
        return replace(found, token=b"late") if found is not None and not found.live else found

    async def fences(
        self: Fences, scope: Scope, number: int, seen: CacheSeen, planted: Planted | None, version: Version | None
    ) -> bool:
        return await fenced(self, scope, number, seen, await plant(self, scope, None) if planted else None, version)

    patch.setattr(Fences, "plant", later)
    patch.setattr(Fences, "_fenced", fences)


def _gated(patch: Patch) -> None:
    """Whoever has read fills, whatever the head's row says of the cache."""
    looked = Leases.looked

    def looks(self: Leases, scope: Scope, missed: Missed, seen: CacheSeen | None, snapshot: Any) -> None:
        looked(self, scope, missed, seen, snapshot)
        if seen is not None and seen.state is not CacheState.ON:
            looked(self, scope, missed, replace(seen, state=CacheState.ON, name=missed.name), snapshot)

    patch.setattr(Leases, "looked", looks)


def _drain(patch: Patch) -> None:
    """What cannot be fenced is told all the same."""

    async def drained(_self: Fences, _scope: Scope, seen: CacheSeen) -> CacheSeen:
        return replace(seen, state=CacheState.DRAINED)

    patch.setattr(Fences, "_drained", drained)


def _fencing(patch: Patch) -> None:
    """A version is told without being fenced."""

    async def tell(*_args: Any, **_named: Any) -> None:
        return None

    patch.setattr(Fences, "tell", tell)


def with_a_clock_that_steps(patch: Patch) -> None:
    """No part is missing: the scripts' clock, the only one of Redis' that counts, is off by the milliseconds in `CLOCK_KEY`."""
    for script in (scripts.READ, scripts.PLANT, scripts.FILL, scripts.PUBLISH):
        now = "local now = time[1] * 1000 + math.floor(time[2] / 1000)"
        if now in script.text:
            _script(patch, script, (now, f"{now} + tonumber(redis.call('GET', '{CLOCK_KEY}') or 0)"))


PARTS: Mapping[str, Callable[[Patch], None]] = {
    "token": _token,
    "fence": _fence,
    "run_id": _run_id,
    "registered_run_id": _registered,
    "lease": _lease,
    "lease_from_token_time": _token_time,
    "token_before_commit": _planted_first,
    "gated_fill": _gated,
    "drain": _drain,
    "fence_before_telling": _fencing,
}
