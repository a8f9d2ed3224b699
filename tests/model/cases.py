"""What is explored: scenes, faults, and what each mutant is caught with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from tests.model.explore import Explored, explore
from tests.model.parts import PROTOCOL, Parts
from tests.model.world import Faults, World, start

SCENES: dict[str, Callable[..., World]] = {
    "two writers": start,
    "a writer and a canonical reader": partial(start, second="read"),
    "two writers, off at first": partial(start, cache="off"),
    "two writers, a new namespace": partial(start, cache="drained"),
}

FAULTS = {
    "none": Faults(),
    "crash": Faults(crash=1),
    "timeout": Faults(timeout=1),
    "flush": Faults(flush=1),
    "restart": Faults(restart=1),
    "failover": Faults(failover=1),
    "flush+crash": Faults(flush=1, crash=1),
    "flush+timeout": Faults(flush=1, timeout=1),
    "restart+failover": Faults(restart=1, failover=1),
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """The protocol without one part, and the smallest faults under which that shows."""

    without: str
    faults: str
    scene: str = "two writers"
    wrong: str = "stale"
    misses: int = 1
    """Of the reader."""

    @property
    def parts(self) -> Parts:
        return replace(PROTOCOL, **{self.without: False})

    def explored(self, *, faulty: bool = True) -> Explored:
        """What is found with those faults, or with none."""
        return explore(self.parts, SCENES[self.scene](FAULTS[self.faults if faulty else "none"], misses=self.misses))


MUTANTS = [
    Mutant("token", "flush"),
    Mutant("fence", "none"),
    Mutant("forward", "timeout", misses=2),
    Mutant("run_id", "restart"),
    Mutant("registered_run_id", "failover"),
    Mutant("lease", "none", "two writers, off at first"),
    Mutant("lease_from_token_time", "timeout", "a writer and a canonical reader"),
    Mutant("token_before_commit", "flush"),
    Mutant("gated_fill", "none", "two writers, off at first"),
    Mutant("drain", "timeout"),
    Mutant("drain_waits", "none", "two writers, off at first"),
    Mutant("epoch", "restart", "a writer and a canonical reader"),
    Mutant("state_from_commit", "none", "two writers, a new namespace"),
    Mutant("publish_after_commit", "none", wrong="uncommitted"),
    Mutant("one_switch", "none", wrong="torn"),
]
