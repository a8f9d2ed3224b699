"""`sfm migrate`: the schema of the Postgres that the settings name, brought up to date or only looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli.connection import Json
from sfm_grpc.cli.exits import CommandError, Exit

if TYPE_CHECKING:
    from sfm_grpc.settings import Settings


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; the exit code says whether the schema is what this release needs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring the schema of the Postgres at SFM_POSTGRES_URL up to date.

    Several may start together: one of them migrates, the others wait for it. Each step is applied once, and whole or not at all.
    There is no way back but a backup. With --check, exit code 1 means that the schema is older or newer than this release needs,
    or not its own.
    """
    import asyncio

    from sfm_grpc import logs
    from sfm_grpc.errors import StoreRefused
    from sfm_grpc.settings import ConfigError, load

    try:
        settings = load()
    except ConfigError as error:
        raise CommandError(str(error)) from None
    if settings.postgres_url is None:
        raise CommandError("SFM_POSTGRES_URL is not set: the embedded store needs no migrating, it makes its own schema")
    logs.configure(settings.log_level, settings.log_format)
    try:
        found = asyncio.run(_found(settings, check=check))
    except StoreRefused as error:
        raise CommandError(f"cannot migrate: {error.problem}", Exit.REFUSED) from None
    _print(found, as_json=as_json)


async def _found(settings: Settings, *, check: bool) -> dict[str, Any]:
    """What was done, and how the schema is then."""
    from sfm_grpc import stores

    applied = [] if check else await stores.migrate(settings)
    state = await stores.schema(settings)
    return {
        "ok": not state.problem(),
        "data": stores.place(settings),
        "schema": state.current,
        "needed": state.needed,
        "applied": [{"number": step.number, "name": step.name} for step in applied],
        "pending": [{"number": step.number, "name": step.name} for step in state.pending],
        "problem": state.problem(),
    }


def _print(found: dict[str, Any], *, as_json: bool) -> None:
    from sfm_grpc.cli import output

    if as_json:
        output.print_json(found)
        if not found["ok"]:
            raise typer.Exit(Exit.WRONG)
        return
    for step in found["applied"]:
        print(f"applied {step['number']} ({output.clean(step['name'])})")
    if not found["ok"]:
        raise CommandError(f"{found['data']}: {found['problem']}", Exit.WRONG)
    nothing = "" if found["applied"] else "nothing to do: "
    print(f"{nothing}{output.clean(found['data'])} has schema {found['schema']}, which is what this release needs")
