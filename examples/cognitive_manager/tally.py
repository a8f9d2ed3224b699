"""What a manager did, counted and timed by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A commit that the store has promised to keep."""

    version: int
    batch: int
    rho_digest: str
    """SHA-256 of ρ's numbers, in hexadecimal, as the receipt has it."""
    replayed: bool
    """Learned by asking again: the first answer was lost."""


@dataclass(slots=True)
class Tally:
    """Counts and times of one manager, or of several together."""

    commits: int = 0
    conflicts: int = 0
    """Commits that another manager was faster than, each thought through again on the newer ρ."""
    reads: int = 0
    reads_unmoved: int = 0
    """Reads for which no numbers travelled: the client had the newest ones."""
    searches: int = 0
    without_index: int = 0
    """Searches that no index answered: no recall came of them."""
    outages: int = 0
    """Calls that nobody answered, each made again."""
    replayed: int = 0
    clamped: int = 0
    bytes_committed: int = 0
    """Bytes of the numbers in acknowledged commits."""
    read_s: list[float] = field(default_factory=list)
    """Seconds of each answered read."""
    search_s: list[float] = field(default_factory=list)
    """Seconds of each answered search."""
    commit_s: list[float] = field(default_factory=list)
    """Seconds of each acknowledged commit, the waiting included that gRPC's own retries did."""

    def unanswered(self) -> None:
        """Counts a call that nobody answered."""
        self.outages += 1

    def add(self, other: Tally) -> None:
        """Counts another manager's in."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Tally:
        """The inverse."""
        return cls(**fields)


def percentile_ms(seconds: Sequence[float], percent: int) -> float | None:
    """The smallest value that `percent` % of all do not exceed, in milliseconds; None of nothing."""
    if not seconds:
        return None
    return round(1000 * sorted(seconds)[math.ceil(len(seconds) * percent / 100) - 1], 3)
