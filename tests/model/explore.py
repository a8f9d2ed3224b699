"""Every state that can be reached, breadth first, so that the first way to something wrong is a shortest one."""

from __future__ import annotations

import contextlib
import gc
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from tests.model.parts import Parts
from tests.model.protocol import Step, steps
from tests.model.world import World, wrongs


@dataclass(frozen=True, slots=True)
class Explored:
    """What was found."""

    states: int
    """Different ones that were reached."""
    exhausted: bool
    """Whether there are no others."""
    wrong: list[str]
    """What a CACHED read could see that it must not, in the first state in which it could; empty: in none that was reached."""
    trace: list[Step]
    """A shortest way there, with what the world was like after each step."""

    @property
    def story(self) -> str:
        """The way there, one step a line."""
        return "\n".join(f"{number:3}. {text:65} {world}" for number, (text, world) in enumerate(self.trace, 1))


def explore(parts: Parts, start: World, *, states_max: int = 5_000_000) -> Explored:
    """Goes everywhere from `start`, until something wrong can be read, or there are too many states."""
    with _without_garbage_collection():
        return _explore(parts, start, states_max)


def _explore(parts: Parts, start: World, states_max: int) -> Explored:
    came_from: dict[World, World | None] = {start: None}
    to_visit = deque([start])
    while to_visit and len(came_from) <= states_max:
        world = to_visit.popleft()
        if wrong := wrongs(parts, world):
            return Explored(len(came_from), False, wrong, _trace(parts, came_from, world))
        for _, after in steps(parts, world):
            if after not in came_from:
                came_from[after] = world
                to_visit.append(after)
    return Explored(len(came_from), not to_visit, [], [])


def _trace(parts: Parts, came_from: dict[World, World | None], world: World) -> list[Step]:
    trace: list[Step] = []
    while before := came_from[world]:
        trace.append(next(step for step in steps(parts, before) if step[1] == world))
        world = before
    return trace[::-1]


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Millions of tuples without a cycle: looking for cycles takes most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
