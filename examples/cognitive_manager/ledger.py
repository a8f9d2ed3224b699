"""Where in the stream the namespace is: a row of numbers that is committed together with ρ, so that the two cannot disagree.

Column i is the version whose commit took batch i, 0 as long as none has. A manager that starts again reads from it what is left;
whoever wants to replay the trail reads from it in which order. (The commits' metadata say the same, as long as they are kept.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from examples.cognitive_manager.stream import FloatArray


@dataclass(frozen=True, slots=True)
class Share:
    """One manager's part of the stream: every batch i with i mod `managers` = `manager`."""

    manager: int
    managers: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """`1/2`: the first of two. Raises ValueError."""
        manager, _, managers = text.partition("/")
        share = cls(int(manager) - 1, int(managers))
        if not 0 <= share.manager < share.managers:
            raise ValueError(text)
        return share

    def __str__(self) -> str:
        return f"{self.manager + 1}/{self.managers}"


def start(batches: int) -> FloatArray:
    """No batch taken yet."""
    return np.zeros((1, batches))


def taken(ledger: FloatArray, batch: int) -> bool:
    """Whether a commit has taken this batch."""
    return bool(ledger[0, batch])


def with_taken(ledger: FloatArray, batch: int, version: int) -> FloatArray:
    """The ledger that the commit of `version` carries, as a new array."""
    assert not taken(ledger, batch), f"batch {batch} would be taken twice"
    new = ledger.copy()
    new[0, batch] = version
    return new


def left(ledger: FloatArray, share: Share, batches: int) -> list[int]:
    """The batches of a share, among the first `batches`, that no commit has taken."""
    return [b for b in range(share.manager, batches, share.managers) if not taken(ledger, b)]


def trail(ledger: FloatArray) -> list[tuple[int, int]]:
    """(version, batch) of all that were taken, in the order of their commits."""
    return sorted((int(version), batch) for batch, version in enumerate(ledger[0].tolist()) if version)
