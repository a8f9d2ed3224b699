"""What commands print: aligned tables for people, JSON for scripts."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from msgspec import Struct

# Without a terminal nothing is wrapped: whoever reads it splits lines, not cells.
_WIDTH_UNLIMITED = 10_000
_WRAPPED_WIDTH_MIN = 24


def plain(value: object) -> Any:
    """Records as what JSON knows: enums by name, bytes in hexadecimal, times in ISO 8601, infinities and NaN as text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    return _plain_scalar(value)


def _plain_scalar(value: object) -> Any:
    match value:
        case enum.Enum():
            return value.name.lower()
        case bytes():
            return value.hex()
        case datetime():
            return value.isoformat()
        case float() if not math.isfinite(value):
            return str(value)
    return value


def print_json(value: object) -> None:
    """One JSON document."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def print_json_line(value: object) -> None:
    """One JSON document on a line of its own, at once."""
    print(json.dumps(plain(value), ensure_ascii=False, allow_nan=False), flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns aligned. One that is called `… >` is set to the right, one that is called `… ~` wraps where the terminal ends."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(c.strip("~ ") for c in columns))
    for name in columns:
        wraps = name.endswith("~")
        justify: Literal["left", "right"] = "right" if name.endswith(">") else "left"
        table.add_column(name.rstrip("~> "), justify=justify, no_wrap=not wraps, overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(clean(cell)) for cell in row))
    console = Console(highlight=False, markup=False, emoji=False)
    needed = Measurement.get(console, console.options.update(max_width=_WIDTH_UNLIMITED), table)
    # Numbers and names are never broken: a terminal that is too narrow wraps lines as it does for everybody.
    narrowest = needed.minimum + _WRAPPED_WIDTH_MIN * sum(name.endswith("~") for name in columns)
    console.width = min(needed.maximum, max(console.width, narrowest)) if sys.stdout.isatty() else needed.maximum
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


class Lines:
    """A table of which nobody knows how long it will be: each row is printed when it comes, as wide as the widest so far."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._right = [name.endswith(">") for name in columns]
        self._names = [name.rstrip("~> ") for name in columns]
        self._widths = [len(name) for name in self._names]

    def add(self, row: Sequence[object]) -> None:
        """Prints a row, before the first one the columns' names."""
        cells = [clean(cell) for cell in row]
        self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, cells, strict=True)]
        if self._names:
            self._print(self._names)
            self._names = []
        self._print(cells)

    def _print(self, cells: Sequence[str]) -> None:
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, self._widths, self._right, strict=True)
        )
        print(" ".join(aligned).rstrip(), flush=True)


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Name and value, one a line."""
    print_table(("", "~"), facts)


def clean(value: object) -> str:
    """Text that cannot steer a terminal: what others wrote is shown, not obeyed."""
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def marked(ok: bool, right: object, wrong: object) -> Any:
    """A cell that is green or red where there is colour."""
    from rich.text import Text

    return Text(clean(right if ok else wrong), style="green" if ok else "bold red")


def say(sentence: str) -> None:
    """A sentence on stderr, beside the answer."""
    print(clean(sentence), file=sys.stderr)


# ---- words -----------------------------------------------------------------------------------------------------------


def time_of(moment: datetime) -> str:
    """2026-01-31 12:00:00.123 UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"


def ago(moment: datetime) -> str:
    """How long since: `3 min`."""
    return lasting((datetime.now(UTC) - moment).total_seconds())


def lasting(seconds: float) -> str:
    """A length of time in its largest sensible unit."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def size_of(count: int) -> str:
    """Bytes as people say them."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"


def small(value: float) -> str:
    """A bound or an error: three digits are all that is meant."""
    return f"{value:.3g}"


# ---- long work -------------------------------------------------------------------------------------------------------


@contextmanager
def phases() -> Iterator[Callable[[str, int, int], object]]:
    """A bar on stderr for work that says what it does: phase, how much is done, of how much (0: unknown), if a person watches."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[count]}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, count="")

        def tell(phase: str, done: int, total: int) -> None:
            bar.update(task, description=clean(phase), completed=done, total=total or None, count=_of(done, total))

        yield tell


def _of(done: int, total: int) -> str:
    return f"{done}/{total}" if total else str(done)


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[], object]]:
    """A bar on stderr while the work is under way, if a person is watching it."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)
