"""Which index the collections of a Qdrant server are, and which of them it must have.

An index is a collection that has nothing but its identity in its name, the *ledger*, and one for each geometry with the same
identity in its name. So whoever knows an index by an identity that is no more finds nothing under it, and writes nowhere: two
servers that do not know the same identity yet cannot undo each other's work.

- The ledger is made before any other collection of its identity, and removed before them: where there is none, the server was
  emptied, or never had anything, and an index is begun under an identity that never was.
- A collection is listed in the ledger after it was made and before anything is put into it. So one that is listed and not there
  was deleted with what was in it, and one that is there and not listed is empty.
- Where two servers begin an index at once, the identity that comes first counts for both as soon as they look again.

What cannot be told: points that were deleted one by one, and a server that was set back to a copy of itself that has the ledger.
Comparing it with the store finds that.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from dataclasses import dataclass

import qdrant_client.grpc as wire

from sfm_grpc.errors import IndexUnavailable
from sfm_grpc.model import Distance
from sfm_grpc.storage.vectors import points, qdrant_messages
from sfm_grpc.storage.vectors.qdrant_connection import Connection

_log = logging.getLogger(__name__)

_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Collections:
    """Those of a prefix that are there."""

    ledgers: frozenset[str]
    """Identities."""
    others: dict[str, tuple[str, int]]
    """Name → identity and dimension."""


class Ledger:
    """The index of a prefix. All methods raise IndexUnavailable; only `settle` and `renew` change the identity."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        self._connection = connection
        self._begun = f"{prefix}_v{points.FORMAT}_"
        self._pattern = re.compile(rf"{re.escape(self._begun)}([0-9a-f]{{26}})(?:_(\d+)_[a-z]+)?")
        self.identity = ""

    def name(self, dimension: int, distance: Distance) -> str:
        """Of a geometry's collection."""
        if not self.identity:
            raise IndexUnavailable(problem=f"{self._connection.where} has not been opened yet")
        return f"{self._begun}{self.identity}_{dimension}_{distance.name.lower()}"

    async def settle(self) -> dict[str, int]:
        """Finds the index, or begins one, and removes what is left of others. Its collections that are there, with dimensions."""
        found = await self._look()
        if not found.ledgers:
            await self._begin()
            found = await self._look()
        if not found.ledgers:
            raise IndexUnavailable(problem=f"{self._connection.where} is being emptied")
        chosen = min(found.ledgers)
        if self.identity not in ("", chosen):
            _log.warning("%s is not what it was: the index is made again", self._connection.where)
        self.identity = chosen
        await self._clear(found)
        return {name: dimension for name, (identity, dimension) in found.others.items() if identity == chosen}

    async def renew(self) -> None:
        """Begins the index anew, unless another server has done so already."""
        await self._remove(self._begun + self.identity)
        await self.settle()

    async def _look(self) -> Collections:
        told = await self._connection.ask(self._connection.collections.List, wire.ListCollectionsRequest())
        ours = [match for each in told.collections if (match := self._pattern.fullmatch(each.name))]
        return Collections(
            frozenset(match[1] for match in ours if match[2] is None),
            {match[0]: (match[1], int(match[2])) for match in ours if match[2] is not None},
        )

    async def _begin(self) -> None:
        """The time comes first in an identity: of two the older one counts, which more may know."""
        identity = f"{time.time_ns() // 1000:014x}{secrets.token_hex(6)}"
        creation = qdrant_messages.ledger(self._begun + identity)
        await self._connection.ask(self._connection.collections.Create, creation, slow=True)

    async def _clear(self, found: Collections) -> None:
        for identity in found.ledgers - {self.identity}:
            await self._remove(self._begun + identity)
        for name, (identity, _) in found.others.items():
            if identity != self.identity:
                await self._remove(name)

    async def _remove(self, name: str) -> None:
        await self._connection.find(self._connection.collections.Delete, wire.DeleteCollection(collection_name=name), slow=True)

    # ---- what it lists

    async def enter(self, name: str) -> None:
        """The collection is there, and from now on it must be."""
        entry = qdrant_messages.entry(self._begun + self.identity, name)
        told = await self._connection.find(self._connection.points.Upsert, entry)
        if told is None:
            raise self._gone()
        if told.result.status != wire.Completed:
            raise IndexUnavailable(problem=f"{self._connection.where} has not done in time what it was told")

    async def listed(self) -> set[str]:
        """The collections that must be there."""
        names: set[str] = set()
        after = ""
        while True:
            request = qdrant_messages.entries(self._begun + self.identity, after, _PAGE)
            told = await self._connection.find(self._connection.points.Scroll, request)
            if told is None:
                raise self._gone()
            names.update(qdrant_messages.entered(point) for point in told.result)
            after = told.next_page_offset.uuid
            if not after:
                return names

    async def miss(self, name: str) -> None:
        """The collection is not there: was it never? Raises IndexUnavailable if it was."""
        if name in await self.listed():
            raise self._gone()

    def _gone(self) -> IndexUnavailable:
        return IndexUnavailable(problem=f"{self._connection.where} has lost what was in it; it is made again")
