"""Explores the protocol under all faults, and catches all mutants: several minutes. `python -m tests.model [--trace]`.

The exit code is 0 where the protocol is clean, nothing was left unexplored, and each mutant was caught.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from tests.model.cases import FAULTS, MUTANTS, SCENES
from tests.model.explore import Explored, explore
from tests.model.parts import PROTOCOL


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--trace", action="store_true", help="print how each mutant goes wrong")
    parser.add_argument("--scenes", nargs="*", choices=SCENES, default=list(SCENES), metavar="SCENE", help="only these")
    parser.add_argument("--faults", nargs="*", choices=FAULTS, default=list(FAULTS), metavar="FAULTS", help="only these")
    parser.add_argument("--misses", type=int, default=2, help="how often the reader misses (default: 2)")
    parser.add_argument("--states", type=int, default=5_000_000, help="where to stop (default: 5000000, about 3 GB)")
    told = parser.parse_args()
    well = protocol(told.scenes, told.faults, told.misses, told.states)
    well &= mutants(trace=told.trace)
    sys.exit(not well)


def protocol(scenes: Sequence[str], faults: Sequence[str], misses: int, states_max: int) -> bool:
    """Prints what is found in each scene under each of the faults; whether all is well."""
    well = True
    for scene in scenes:
        print(f"\n{scene}")
        for name in faults:
            began_s = time.perf_counter()
            explored = explore(PROTOCOL, SCENES[scene](FAULTS[name], misses=misses), states_max=states_max)
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
