"""What a mutation's answer says besides version and time, in the form that is kept for replays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from sfm_grpc.model import Certificate, Entry
from sfm_grpc.storage import codec


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one key of a commit."""

    key: str
    certificate: Certificate | None
    """None: the key was deleted."""
    step: float | None
    """‖new − old‖_F, where there was an old one to compare with."""


def to_bytes(receipts: Sequence[Receipt]) -> bytes:
    """Receipts as they are stored."""
    return orjson.dumps([[r.key, r.certificate and codec.certificate_to_json(r.certificate), _step(r)] for r in receipts])


def from_bytes(stored: bytes) -> tuple[Receipt, ...]:
    """The receipts again."""
    rows = orjson.loads(stored)
    return tuple(
        Receipt(key, codec.certificate_from_json(text) if text else None, None if step is None else float(step))
        for key, text, step in rows
    )


def _step(receipt: Receipt) -> str | None:
    """As text: JSON has no infinity, and between two finite matrices there may be one."""
    return None if receipt.step is None else repr(receipt.step)


def restored_to_bytes(version: int, entries: Sequence[Entry]) -> bytes:
    """A restore's answer as it is stored."""
    return orjson.dumps([version, [[e.key, codec.certificate_to_json(e.certificate), e.put_version] for e in entries]])


def restored_from_bytes(stored: bytes) -> tuple[int, tuple[Entry, ...]]:
    """A restore's answer again: the version that was restored, and what it holds."""
    version, rows = orjson.loads(stored)
    return version, tuple(Entry(key, codec.certificate_from_json(text), put_version) for key, text, put_version in rows)
