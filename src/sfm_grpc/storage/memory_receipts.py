"""Receipts of memories as they are remembered with a request: in the order of its changes, so without the keys."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from sfm_grpc.model import DeleteLink, LinkName, MemoryChange, MemoryReceipt, Outcome, PutLink

_RECEIPT = struct.Struct("<BqqQ32s")
_NO_DIGEST = bytes(32)


def receipts_to_bytes(receipts: Iterable[MemoryReceipt]) -> bytes:
    """What is kept of receipts."""
    return b"".join(
        _RECEIPT.pack(r.outcome, r.revision, r.create_time_us, r.update_time_us, r.digest or _NO_DIGEST) for r in receipts
    )


def receipts_from_bytes(kept: bytes, changes: Sequence[MemoryChange]) -> tuple[MemoryReceipt, ...]:
    """The receipts again, of the same changes."""
    rows = zip(changes, _RECEIPT.iter_unpack(kept), strict=True)
    return tuple(
        MemoryReceipt(
            c.key, Outcome(outcome), revision, digest if digest != _NO_DIGEST else b"", created_us, updated_us, _link(c)
        )
        for c, (outcome, revision, created_us, updated_us, digest) in rows
    )


def _link(change: MemoryChange) -> LinkName | None:
    return change.name if isinstance(change, PutLink | DeleteLink) else None
