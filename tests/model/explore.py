"""Every state that can be reached, breadth first, so that the first way to something wrong is a shortest one."""

from __future__ import annotations

import gc
from collections import deque
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
    """What a CACHED read could see in the first state in which it could see anything wrong; empty: there is none such."""
    trace: list[Step]
    """The way there, with what the world was like after each step."""


def explore(parts: Parts, start: World, *, states_max: int = 5_000_000) -> Explored:
    """Goes everywhere from `start`, until something wrong can be read."""
    gc.disable()
    came_from: dict[World, World | None] = {start: None}
    to_visit = deque([start])
    while to_visit:
        world = to_visit.popleft()
        if wrong := wrongs(parts, world):
            return Explored(len(came_from), False, wrong, _trace(parts, came_from, world))
        if len(came_from) > states_max:
            return Explored(len(came_from), False, [], [])
        for _, after in steps(parts, world):
            if after not in came_from:
                came_from[after] = world
                to_visit.append(after)
    return Explored(len(came_from), True, [], [])


def _trace(parts: Parts, came_from: dict[World, World | None], world: World) -> list[Step]:
    trace: list[Step] = []
    while before := came_from[world]:
        trace.append(next(step for step in steps(parts, before) if step[1] == world))
        world = before
    return trace[::-1]
