"""Explores the protocol under all faults, and catches all mutants: minutes. `python -m tests.model [--trace] [--misses N]`.

The exit code is 0 where the protocol is clean, everything was explored, and each mutant was caught.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.model.cases import FAULTS, MUTANTS, SCENES
from tests.model.explore import Explored, explore
from tests.model.parts import PROTOCOL


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--trace", action="store_true", help="print how each mutant goes wrong")
    parser.add_argument("--misses", type=int, default=2, help="how often the reader misses (default: 2)")
    parser.add_argument("--states", type=int, default=5_000_000, help="where to stop (default: 5000000; a million take 0.5 GB)")
    told = parser.parse_args()
    well = protocol(told.misses, told.states)
    well &= mutants(trace=told.trace)
    sys.exit(not well)


def protocol(misses: int, states_max: int) -> bool:
    """Prints what is found in each scene under each of the faults; whether all is well."""
    well = True
    for scene, start in SCENES.items():
        print(f"\n{scene}")
        for name, faults in FAULTS.items():
            began_s = time.perf_counter()
            explored = explore(PROTOCOL, start(faults, misses=misses), states_max=states_max)
            line(name, explored, time.perf_counter() - began_s)
            well &= explored.exhausted and not explored.wrong
    return well


def mutants(*, trace: bool) -> bool:
    """Prints what each mutant is caught with; whether all are."""
    well = True
    print("\nthe protocol without")
    for mutant in MUTANTS:
        began_s = time.perf_counter()
        explored = mutant.explored()
        line(f"{mutant.without}: {mutant.faults}, {mutant.scene}", explored, time.perf_counter() - began_s)
        well &= mutant.wrong in explored.wrong
        if trace:
            print(explored.story)
    return well


def line(name: str, explored: Explored, took_s: float) -> None:
    """One row of the table."""
    found = ", ".join(explored.wrong) or ("clean" if explored.exhausted else "cut: too many states")
    print(f"  {name:62} {explored.states:9,} states {took_s:6.1f} s  {found}", flush=True)


if __name__ == "__main__":
    main()
