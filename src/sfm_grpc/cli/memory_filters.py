"""Which memories `sfm memory list` and `search` take in: the options they share, and what is meant by them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from sfm_grpc.cli.exits import CommandError

if TYPE_CHECKING:
    from sfm_grpc.client.memory_records import FilterOptions, NumberRange

Prefix = Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Only keys that begin so.")]
Types = Annotated[list[str] | None, typer.Option("--type", metavar="TYPE", help="Only of this type; may be repeated.")]
MinImportance = Annotated[float | None, typer.Option(metavar="X", help="Only with this importance or more.")]
MaxImportance = Annotated[float | None, typer.Option(metavar="X", help="Only with this importance or less.")]
CreatedAfter = Annotated[
    str | None, typer.Option(metavar="TIME", help="Only created then or later: 2026-01-31T12:00:00Z, or a day; UTC if not said.")
]
CreatedBefore = Annotated[str | None, typer.Option(metavar="TIME", help="Only created then or earlier.")]
UpdatedAfter = Annotated[str | None, typer.Option(metavar="TIME", help="Only written then or later.")]
UpdatedBefore = Annotated[str | None, typer.Option(metavar="TIME", help="Only written then or earlier.")]
Box = Annotated[
    str | None,
    typer.Option(metavar="LOW:HIGH,…", help="Only where each coordinate is in its range: 0:10,-5:5; a side left out is no end."),
]

Ends: TypeAlias = tuple[str | None, str | None]


def chosen(
    *,
    prefix: str,
    types: Sequence[str] | None,
    importance: NumberRange,
    created: Ends,
    updated: Ends,
    box: str | None,
) -> FilterOptions:
    """What the client is asked for. Raises CommandError."""
    asked: FilterOptions = {"key_prefix": prefix, "memory_types": types or ()}
    if importance != (None, None):
        asked["importance"] = importance
    if created != (None, None):
        asked["create_time"] = (_time(created[0], "--created-after"), _time(created[1], "--created-before"))
    if updated != (None, None):
        asked["update_time"] = (_time(updated[0], "--updated-after"), _time(updated[1], "--updated-before"))
    if box is not None:
        asked["box"] = [_range(each) for each in box.split(",")]
    return asked


def _time(text: str | None, option: str) -> datetime | None:
    """ISO 8601, and what this command line prints: `2026-01-31 12:00:00.123 UTC`."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        raise CommandError(f"{option}: {text!r} is no time: 2026-01-31, 2026-01-31T12:00:00Z, 2026-01-31T13:00+01:00") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _range(text: str) -> NumberRange:
    low, colon, high = text.partition(":")
    try:
        if colon:
            return (float(low) if low.strip() else None, float(high) if high.strip() else None)
    except ValueError:
        pass
    raise CommandError(f"--box: {text!r} is no range: say LOW:HIGH, or : for one without ends")
