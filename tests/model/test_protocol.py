"""No interleaving lets a CACHED read see what it must not, and each part of the protocol is needed for that.

A few faults in a few scenes; `python -m tests.model` explores all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest

from tests.model.cases import FAULTS, MUTANTS, SCENES, Mutant
from tests.model.explore import explore
from tests.model.parts import PROTOCOL, Parts
from tests.model.protocol import Step, raw_steps, steps
from tests.model.scripts import LEASE, Server, filled
from tests.model.world import World, forgetting, start, wrongs

# How often the reader misses; once where twice would take too long here.
MISSES = {
    ("two writers", "crash"): 1,
    ("two writers", "flush"): 2,
    ("two writers", "timeout"): 1,
    ("a writer and a canonical reader", "timeout"): 1,
    ("a writer and a canonical reader", "restart"): 1,
    ("a writer and a canonical reader", "failover"): 1,
    ("two writers, off at first", "flush"): 1,
    ("two writers, a new namespace", "none"): 2,
}


@pytest.mark.parametrize(("scene", "faults"), MISSES, ids=str)
def test_nothing_wrong_can_be_read(scene: str, faults: str) -> None:
    explored = explore(PROTOCOL, SCENES[scene](FAULTS[faults], misses=MISSES[scene, faults]))
    assert not explored.wrong, f"{explored.wrong}\n{explored.story}"
    assert explored.exhausted
    assert explored.states > 5_000, "too few to mean anything"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.without)
def test_each_part_is_needed(mutant: Mutant) -> None:
    explored = mutant.explored()
    print(f"without {mutant.without}: {', '.join(explored.wrong)}\n{explored.story}")
    assert mutant.wrong in explored.wrong
    assert explored.trace
    assert mutant.wrong in wrongs(mutant.parts, explored.trace[-1][1])


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.faults != "none"], ids=lambda mutant: mutant.without)
def test_each_mutant_needs_its_fault(mutant: Mutant) -> None:
    """Without it, the mutant passes for the protocol."""
    explored = mutant.explored(faulty=False)
    assert explored.exhausted
    assert not explored.wrong


def test_each_part_has_a_mutant() -> None:
    assert {mutant.without for mutant in MUTANTS} == {field.name for field in dataclasses.fields(Parts)}


def test_what_is_wrong_is_seen() -> None:
    world = start(FAULTS["none"])
    committed = world._replace(head=world.head._replace(version=1))
    told = committed._replace(told=1)
    one, newer, torn = Server(1, filled(1, 0)), Server(2, filled(2, 1)), Server(1, filled(1, 1)._replace(b=0))
    assert wrongs(PROTOCOL, world) == wrongs(PROTOCOL, committed) == []
    assert wrongs(PROTOCOL, told) == ["stale"]
    assert wrongs(PROTOCOL, told._replace(servers=(newer,))) == []
    assert wrongs(PROTOCOL, told._replace(servers=(newer, one))) == ["stale"], "the old master is asked too"
    assert wrongs(PROTOCOL, committed._replace(servers=(torn,))) == ["torn"]
    assert wrongs(PROTOCOL, world._replace(servers=(newer,))) == ["uncommitted"]


def test_what_is_not_live_is_not_seen() -> None:
    told = start(FAULTS["none"])._replace(told=1)
    there = filled(1, 0)
    for dead in (there._replace(age=LEASE), there._replace(run_id=2), there._replace(fence=1)):
        assert wrongs(PROTOCOL, told._replace(servers=(Server(1, dead),))) == []


def test_forgetting_tokens_loses_no_state() -> None:
    begin = start(FAULTS["none"], misses=1)
    assert {forgetting(world) for world in reached(raw_steps, begin)} == reached(steps, begin)


def reached(following: Callable[[Parts, World], Iterator[Step]], begin: World) -> set[World]:
    """Every state."""
    found, to_visit = {begin}, [begin]
    while to_visit:
        after = {world for _, world in following(PROTOCOL, to_visit.pop())} - found
        found |= after
        to_visit += after
    return found
