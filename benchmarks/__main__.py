"""`python -m benchmarks [names…] [--quick] [--json FILE]`: runs benchmarks, prints their tables, writes them as JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Section
from benchmarks.machine import facts, load_now

NAMES = (
    "admission",
    "reads",
    "commits",
    "stalls",
    "flatness",
    "health",
    "updates",
    "postgres_commits",
    "leased",
    "guarded",
    "growth",
    "memories",
    "vectors",
    "imports",
    "search",
    "events",
    "prunes",
)
_RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 when every target was reached, 2 otherwise: for people and scripts that compare, never for a test."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which ones: {', '.join(NAMES)}; none: all")
    parser.add_argument("--quick", action="store_true", help="a look in a minute: few repeats, noisy")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where the results go (default: benchmarks/results/<time>.json)"
    )
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    # Whoever asks it to stop (`timeout` does) must not be left with its servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    started = datetime.now(UTC)
    results: dict[str, object] = {"started": started.isoformat(timespec="seconds"), "quick": given.quick, "machine": facts()}
    console = Console(width=None if sys.stdout.isatty() else 170)
    fell_short = 0
    for name in given.names or NAMES:
        section, took = _run(name, console, quick=given.quick)
        fell_short += sum(row.ok is False for row in section.rows)
        results[name] = section.as_json() | {"seconds": round(took, 1), "load_after": load_now()}
    path: Path = given.json or _RESULTS / f"{started:%Y%m%dT%H%M%SZ}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1), encoding="utf-8")
    console.print(f"{fell_short or 'No'} figure{'s' if fell_short != 1 else ''} fell short of the target. Results: {path.name}")
    return 2 if fell_short else 0


def _run(name: str, console: Console, *, quick: bool) -> tuple[Section, float]:
    console.print(f"[dim]{name} …[/dim]")
    started = time.perf_counter()
    section: Section = importlib.import_module(f"benchmarks.{name}").run(quick=quick)
    took = time.perf_counter() - started
    _print(section, console)
    return section, took


def _print(section: Section, console: Console) -> None:
    table = Table("what", "ours", "peer", "ratio (range over the run)", "target", "", title=section.title, title_justify="left")
    for column in table.columns[1:3]:
        column.justify = "right"
    for row in section.rows:
        verdict = "" if row.ok is None else "[green]ok[/green]" if row.ok else "[red]short[/red]"
        table.add_row(row.what, row.ours, row.peer, row.ratio, row.target, verdict)
    console.print(table)
    for note in section.notes:
        console.print(f"  {note}", style="dim", soft_wrap=True)
    console.print()


if __name__ == "__main__":
    sys.exit(main())
