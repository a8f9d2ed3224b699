"""`sfm prune apply` and `undo`: what makes memories go, and come back."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli.connection import Connection, Json, connected, repeatable
from sfm_grpc.cli.exits import CommandError
from sfm_grpc.cli.prune_plans import Keys, KeysFile, ordered
from sfm_grpc.cli.rho_history import NamespaceName

if TYPE_CHECKING:
    from sfm_grpc.client import PruneReceipt, UndoReceipt

ValidateOnly = Annotated[bool, typer.Option("--validate-only", help="Run every check and record nothing.")]


@connected
def apply(
    connection: Connection,
    *,
    ns: NamespaceName,
    keys: Keys = None,
    file: KeysFile = None,
    plan: Annotated[str | None, typer.Option(metavar="PLAN", help="Instead of keys: this plan.")] = None,
    confirm_token: Annotated[
        str, typer.Option(metavar="TOKEN", help="The plan's, where a guard trips: sfm prune plan and show print it.")
    ] = "",
    request_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Repeat the prune that had this id, to learn whether it happened.")
    ] = None,
    validate_only: ValidateOnly = False,
    as_json: Json = False,
) -> None:
    """Prune: a plan, or keys that are under the guards. All of it or nothing.

    A plan of which a memory was written or went meanwhile is refused (exit code 4), as is what a guard stops.
    """
    from sfm_grpc.cli import output
    from sfm_grpc.client.flows import new_request_id

    if plan is not None and (keys or file is not None):
        raise CommandError("keys and --plan exclude each other")
    if plan is None and confirm_token:
        raise CommandError("--confirm-token is of a plan: say --plan")
    what: Any = {"keys": ordered(keys, file)} if plan is None else {"plan_id": plan, "confirm_token": confirm_token}
    request_id = request_id or new_request_id()
    with connection.open() as client, repeatable(request_id, "pruned"):
        done = client.namespace(ns).prunes.apply(**what, request_id=request_id, validate_only=validate_only)
    if as_json:
        facts = {"namespace": ns, "tenant": connection.tenant, "validate_only": validate_only}
        output.print_json({**facts, **output.plain(done)})
    else:
        _print_applied(connection, ns, done, validate_only=validate_only)


def _print_applied(connection: Connection, ns: str, done: PruneReceipt, *, validate_only: bool) -> None:
    from sfm_grpc.cli import output

    print(_headline(done, "pruned", f"{_counted(done.audit.memories)} of {output.clean(ns)}", validate_only=validate_only))
    if done.audit.skipped:
        print(f"{done.audit.skipped} not there: {_named(done.unknown_keys, done.audit.skipped)}")
    if done.undo_until and not validate_only:
        command = shlex.join(["sfm", "prune", "undo", ns, str(done.audit.number), *connection.words()])
        print(f"To take it back, until {output.time_of(done.undo_until)}:\n  {output.clean(command)}")


@connected
def undo(
    connection: Connection,
    *,
    ns: NamespaceName,
    number: Annotated[
        int, typer.Argument(metavar="NUMBER", min=1, help="The prune's, as sfm prune audit lists it.", show_default=False)
    ],
    request_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Repeat the undoing that had this id, to learn whether it happened.")
    ] = None,
    validate_only: ValidateOnly = False,
    as_json: Json = False,
) -> None:
    """Make what a prune deleted be there again, byte for byte.

    What was written since is left as it is, and named. Matrices stay as they are: see sfm rho restore.
    """
    from sfm_grpc.cli import output
    from sfm_grpc.client.flows import new_request_id

    request_id = request_id or new_request_id()
    with connection.open() as client, repeatable(request_id, "undone"):
        done = client.namespace(ns).prunes.undo(number, request_id=request_id, validate_only=validate_only)
    if as_json:
        facts = {"namespace": ns, "tenant": connection.tenant, "validate_only": validate_only}
        output.print_json({**facts, **output.plain(done)})
        return
    print(_headline(done, "there again", f"{_counted(done.audit.memories)} of {output.clean(ns)}", validate_only=validate_only))
    if done.audit.skipped:
        print(f"{done.audit.skipped} left as they are: {_named(done.skipped_keys, done.audit.skipped)}")


def _headline(done: PruneReceipt | UndoReceipt, became: str, what: str, *, validate_only: bool) -> str:
    be = "is" if done.audit.memories == 1 else "are"
    if validate_only:
        return f"valid; nothing was recorded: {what} would be {became}"
    if done.replayed:
        return f"{what} {be} {became}: audit {done.audit.number}, made before by this request; this is the first answer again"
    return f"{what} {be} {became}: audit {done.audit.number}"


def _counted(memories: int) -> str:
    return f"{memories} memor{'y' if memories == 1 else 'ies'}"


def _named(keys: tuple[str, ...], count: int) -> str:
    from sfm_grpc.cli import output

    return output.clean(", ".join(keys)) + (", …" if count > len(keys) else "")
