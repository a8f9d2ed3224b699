"""`sfm memory import` and `export`: many memories, as JSON Lines."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli.connection import Connection, Json, connected
from sfm_grpc.cli.exits import CommandError, Exit, exit_of
from sfm_grpc.cli.rho_history import NamespaceName
from sfm_grpc.errors import SfmError

if TYPE_CHECKING:
    from sfm_grpc.client import ImportReport

_ERRORS_SHOWN = 100
# How often progress is shown where nobody watches it live.
_EVERY_S = 5.0

Progress = Annotated[bool, typer.Option("--progress", help="Say on stderr how far it is, also where that is no terminal.")]

# ---- import ----------------------------------------------------------------------------------------------------------


@connected
def import_lines(
    connection: Connection,
    *,
    ns: NamespaceName,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="JSON Lines; -: from stdin.", show_default=False)],
    create_only: Annotated[bool, typer.Option("--create-only", help="Leave keys alone that are there.")] = False,
    from_line: Annotated[int, typer.Option(min=1, metavar="N", help="Pass over the lines before this one.")] = 1,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Run every check and record nothing.")] = False,
    progress: Progress = False,
    as_json: Json = False,
) -> None:
    """Put the memories of JSON Lines.

    Each line is for itself: those that are refused are told on stderr and stop nothing (exit code 1). It may be repeated.
    A line has "key" and "payload" (any JSON) or "payload_json" (its text), and may have "memory_type", "importance",
    "coordinates", "vector" (base64 of float32, or a list) and "expire_time" (RFC 3339).
    """
    import dataclasses

    from sfm_grpc.cli import output

    watching = _Import("stdin" if file == "-" else file, _Shown(wanted=progress))
    with _source(file) as source, connection.open() as client, watching.resumable(from_line):
        report = client.namespace(ns).memories.import_lines(
            source,
            mode="create_only" if create_only else "upsert",
            from_line=from_line,
            validate_only=validate_only,
            on_progress=watching.tell,
        )
    watching.end(report)
    if as_json:
        facts = {"namespace": ns, "tenant": connection.tenant, "validate_only": validate_only}
        output.print_json(facts | dataclasses.asdict(report))
    else:
        _print(report, validate_only=validate_only)
    if report.failed:
        raise typer.Exit(Exit.WRONG)


@contextmanager
def _source(file: str) -> Iterator[IO[bytes]]:
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        opened = Path(file).open("rb")  # noqa: SIM115  its own errors are told apart from those of what is done meanwhile
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror or error}") from None
    with opened:
        yield opened


class _Import:
    """What is said on stderr while it goes on."""

    def __init__(self, name: str, shown: _Shown) -> None:
        self._name = name
        self._shown = shown
        self._told = 0
        self.through_line = 0

    def tell(self, report: ImportReport) -> None:
        """Takes how far it is."""
        self.through_line = report.through_line
        for error in report.errors[self._told : _ERRORS_SHOWN]:
            parts = (part for part in (error.key, error.field, error.problem) if part)
            self._shown.say(f"{self._name}:{error.line}: {': '.join(parts)}")
            self._told += 1
        done = report.created + report.updated + report.existing + report.failed
        self._shown.tell(done, f"{report.failed} refused" if report.failed else "")

    def end(self, report: ImportReport) -> None:
        """Says how many were not told one by one."""
        self._shown.end()
        if report.failed > self._told:
            self._shown.say(f"{self._name}: … and {report.failed - self._told} more lines were refused")

    @contextmanager
    def resumable(self, from_line: int) -> Iterator[None]:
        """Whatever ends it before its end says with which command it goes on. Raises CommandError."""
        try:
            yield
        except SfmError as error:
            self._shown.end()
            raise CommandError(f"{error}; {self._going_on(from_line)}", exit_of(error)) from None
        except KeyboardInterrupt:
            self._shown.end()
            self._shown.say(self._going_on(from_line))
            raise

    def _going_on(self, from_line: int) -> str:
        begun = max(self.through_line + 1, from_line)
        return f"up to line {begun - 1} it is done; this goes on:\n{_with_from_line(sys.argv[1:], begun)}"


def _with_from_line(arguments: list[str], line: int) -> str:
    """The same command from another line on."""
    kept: list[str] = []
    skips = False
    for argument in arguments:
        if not skips and argument != "--from-line" and not argument.startswith("--from-line="):
            kept.append(argument)
        skips = argument == "--from-line"
    return shlex.join(["sfm", *kept, "--from-line", str(line)])


def _print(report: ImportReport, *, validate_only: bool) -> None:
    from sfm_grpc.cli import output

    if validate_only:
        print("nothing was recorded; this is what would have been")
    counts = {"created": report.created, "updated": report.updated, "existing": report.existing, "refused": report.failed}
    output.print_facts((name, count) for name, count in counts.items() if count or name == "created")


# ---- export ----------------------------------------------------------------------------------------------------------


@connected
def export(
    connection: Connection,
    *,
    ns: NamespaceName,
    file: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to; it is there once it is whole. -: to stdout.")
    ] = "-",
    prefix: Annotated[str, typer.Option(metavar="TEXT", help="Only keys that begin so.")] = "",
    memory_type: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Only of this type; may be repeated.")
    ] = None,
    min_importance: Annotated[float | None, typer.Option(metavar="X", help="Only with this importance or more.")] = None,
    max_importance: Annotated[float | None, typer.Option(metavar="X", help="Only with this importance or less.")] = None,
    no_vectors: Annotated[bool, typer.Option("--no-vectors", help="Leave vectors out.")] = False,
    progress: Progress = False,
) -> None:
    """Write memories as JSON Lines, by key, for sfm memory import.

    Each is as it is when it is read. "payload_json" is its text, byte for byte, "vector" base64 of float32.
    """
    from sfm_grpc.cli.files import written

    asked: dict[str, Any] = {"key_prefix": prefix, "memory_types": memory_type or ()}
    if min_importance is not None or max_importance is not None:
        asked["importance"] = (min_importance, max_importance)
    shown, count = _Shown(wanted=progress), 0
    with connection.open() as client:
        lines = client.namespace(ns).memories.export_lines(
            with_vectors=not no_vectors,
            on_progress=lambda so_far: shown.tell(so_far.lines, f"of about {so_far.total}" if so_far.total else ""),
            **asked,
        )
        if file == "-":
            sys.stdout.flush()
            sys.stdout.buffer.writelines(lines)
            sys.stdout.buffer.flush()
            shown.end()
            return
        with written(Path(file)) as out:
            for count, line in enumerate(lines, 1):  # noqa: B007  it is told below
                out.write(line)
    shown.end()
    print(f"{count} memories in {file}")


# ---- progress --------------------------------------------------------------------------------------------------------


class _Shown:
    """How many lines are done, and how fast that goes, on stderr: live on a terminal, else now and then, or not at all."""

    def __init__(self, *, wanted: bool) -> None:
        self._live = sys.stderr.isatty()
        self._wanted = wanted or self._live
        self._begun_s = self._told_s = time.monotonic()
        self._lines = 0
        self._width = 0

    def tell(self, lines: int, besides: str) -> None:
        """Takes how many are done."""
        self._lines = lines
        now = time.monotonic()
        if not self._wanted or (not self._live and now - self._told_s < _EVERY_S):
            return
        self._told_s = now
        self._write(self._words(now) + (f", {besides}" if besides else ""))

    def end(self) -> None:
        """Says how it went."""
        if self._wanted and self._lines:
            self._write(self._words(time.monotonic()))
            if self._live:
                sys.stderr.write("\n")
        self._width = 0

    def say(self, sentence: str) -> None:
        """A sentence of its own, whatever stands there."""
        from sfm_grpc.cli import output

        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            self._width = 0
        for line in sentence.splitlines():
            output.say(line)

    def _words(self, now: float) -> str:
        return f"{self._lines} lines, {self._lines / max(now - self._begun_s, 1e-3):.0f} a second"

    def _write(self, words: str) -> None:
        if self._live:
            sys.stderr.write("\r" + words.ljust(self._width))
            sys.stderr.flush()
            self._width = len(words)
        else:
            print(words, file=sys.stderr)
