"""What came out of Postgres, turned into what was put in: unpacked, and checked against its digest. Work for a thread."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sfm_grpc.errors import RhoCorrupt
from sfm_grpc.model import Buffer, CacheSeen, Entry, Scope, Version
from sfm_grpc.storage.contract import Reading
from sfm_grpc.storage.postgres import packing


@dataclass(frozen=True, slots=True)
class Stored:
    """One matrix as it is stored."""

    entry: Entry
    sha256: bytes | None
    """Written beside the numbers; None: the row is lost."""
    packed: int | None
    numbers: bytes | None

    @property
    def size(self) -> int:
        """Bytes to look at."""
        return len(self.numbers or b"")

    def checked(self, scope: Scope, version: int) -> Buffer:
        """The numbers, checked at this door too: what was certified is what is served, or nothing. Raises RhoCorrupt."""
        certificate = self.entry.certificate
        numbers = packing.unpack(self.packed or 0, self.numbers or b"")
        # Numbers that were not fetched, because others have their digest, are what that digest says.
        found = hashlib.sha256(numbers).digest() if self.numbers is not None else self.sha256 or hashlib.sha256(b"").digest()
        rows, columns = certificate.shape
        size = rows * columns * certificate.dtype.numpy.itemsize  # a shape is in no digest
        if found != certificate.digest or (self.numbers is not None and len(numbers) != size):
            raise RhoCorrupt(
                namespace=scope.namespace,
                version=version,
                key=self.entry.key,
                expected_digest=certificate.digest.hex(),
                found_digest=found.hex(),
                # What was written beside the numbers says which of the two is damaged: they, or their certificate.
                damaged="certificate" if self.sha256 == found else "numbers",
            )
        return numbers


@dataclass(frozen=True, slots=True)
class Found:
    """A version, and those of its numbers that were asked for."""

    version: Version
    newest: int
    oldest: int
    stored: Sequence[Stored]
    seen: CacheSeen

    @property
    def size(self) -> int:
        """Bytes to look at."""
        return sum(s.size for s in self.stored)

    def checked(self, scope: Scope) -> Reading:
        """The reading. Raises RhoCorrupt."""
        numbers: dict[bytes, Buffer] = {}
        for stored in self.stored:
            digest = stored.entry.certificate.digest
            if digest not in numbers:
                numbers[digest] = stored.checked(scope, self.version.version)
        return Reading(self.version, self.newest, self.oldest, numbers, self.seen)
