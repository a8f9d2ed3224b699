"""What a cache before the store promises: leases that say which version is live, and numbers by their digests.

The protocol is docs/adr/0007's. A cache decides nothing and is never believed for longer than a lease: whether it may be filled
is written in the store (`model.CacheSeen`), and what was planted, filled or fenced holds only while it keeps all of that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sfm_grpc.model import Buffer, Scope

LEASE_S = 1.0
"""How long a filled version stays live, from the moment that its token was planted."""
MARGIN_S = 0.25
"""How much longer a drain waits: what the cache's clock may step back within a lease."""


class CacheUnavailable(Exception):  # noqa: N818  it says so
    """The cache did not do what it was asked, or not in time. It may still do it, later. `str()` says why."""


@dataclass(frozen=True, slots=True)
class Live:
    """A version whose lease stands: none that is newer was told to anyone."""

    version: int
    manifest: bytes
    """SHA-256 of the version's manifest."""


@dataclass(frozen=True, slots=True)
class Missed:
    """Nothing is live. Whoever reads the store from now on may fill, with its token if it was given one."""

    name: str
    """The cache that answered, as it would be registered."""
    token: bytes
    """Empty: none could be planted, or another reader is just about to fill."""
    version: int = 0
    """What an expired entry holds; 0: nothing."""
    manifest: bytes = b""
    age_s: float = 0.0
    """How long ago, at least, that version was the newest: since its lease began."""


@dataclass(frozen=True, slots=True)
class Planted:
    """A writer's token, planted before its transaction is sent."""

    name: str
    token: bytes
    """Empty: none was planted."""
    live: int = 0
    """A live version above the expected one: the commit has lost already. 0: none."""


class LeaseCache(Protocol):
    """The fast path. Every call is bounded in time, and raises CacheUnavailable where it is not done."""

    @property
    def ok(self) -> bool:
        """It answered when it was last asked."""

    @property
    def detail(self) -> str:
        """What it is, and what is wrong with it; no secret."""

    @property
    def gone(self) -> bool:
        """It did not answer, nor when it was asked again at leisure: whoever needs it need not wait for it."""

    def is_ours(self, name: str) -> bool:
        """Whether a registered cache is this deployment's place in some Redis: only such a one can be reached from here."""

    def is_settled(self, name: str) -> bool:
        """Whether this cache has answered for long enough to be registered; longer where it comes and goes."""

    async def check(self, scope: Scope) -> Live | Missed:
        """READ: what is live; where nothing is, plants a token, unless somebody else has just done so."""

    async def plant(self, scope: Scope, expected: int | None) -> Planted:
        """PLANT: a writer's token, before its transaction is sent; the last planter's stands."""

    async def fill(self, scope: Scope, missed: Missed, version: int, manifest: bytes) -> bytes | None:
        """FILL: makes live what was read after `missed`, from that moment on for a lease.

        Returns the manifest that was there, b"" where none was; None: refused, which is as well.
        """

    async def publish(
        self, scope: Scope, planted: Planted | None, registered: str, version: int, manifest: bytes
    ) -> bytes | None:
        """PUBLISH: from now on nothing older than `version` is live. With `planted` the version itself may be made live, too.

        Returns the manifest that it replaced, b"" for none; None: nothing of that, this is not the registered cache.
        """

    async def stage(self, scope: Scope, content: Mapping[bytes, Buffer]) -> None:
        """Keeps content, by digest, for a few seconds: what is about to be made live."""

    async def hold(self, scope: Scope, content: Mapping[bytes, Buffer | None]) -> None:
        """Keeps what is live for longer, and brings what is not there where it is at hand."""

    async def let_go(self, scope: Scope, names: Collection[bytes]) -> None:
        """Content that is not live any more goes in a few seconds."""

    async def fetch(self, scope: Scope, digests: Sequence[bytes]) -> list[bytes | None]:
        """Content by digest, None where it is not there. Not checked: whoever asks compares the digest."""
