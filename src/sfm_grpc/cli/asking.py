"""The question before something that cannot be taken back."""

from __future__ import annotations

import sys

import typer

from sfm_grpc.cli.exits import CommandError


def ask(question: str, *, yes: bool, what: str) -> None:
    """Asks on stderr, unless `yes` was said; aborts on a no. Raises CommandError, with why it asks (`what`), where nobody can."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{what} and there is nobody to ask: say --yes")
    typer.confirm(question, abort=True, err=True)
