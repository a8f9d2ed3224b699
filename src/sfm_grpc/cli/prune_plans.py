"""`sfm prune plan`, `show` and `plans`: what a prune would do, and what the guards say of it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli.connection import Connection, Json, connected
from sfm_grpc.cli.exits import CommandError
from sfm_grpc.cli.rho_history import NamespaceName

if TYPE_CHECKING:
    from sfm_grpc.client import PruneGuard, PrunePlan

_PAGE_SIZE = 50
_KEYS_SHOWN = 10

Keys = Annotated[
    list[str] | None, typer.Argument(metavar="KEY", help="What is to go, the first to go first.", show_default=False)
]
KeysFile = Annotated[Path | None, typer.Option("--file", metavar="FILE|-", help="The keys, one a line; -: from stdin.")]


@connected
def plan(
    connection: Connection,
    *,
    ns: NamespaceName,
    keys: Keys = None,
    file: KeysFile = None,
    keep: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Instead of keys: the least important, of those the oldest, until N are left."),
    ] = None,
    request_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The same keys under the same id get the same plan again.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Plan a prune, and say what it would do. Nothing is touched.

    Where a guard trips it prints the token that confirms the plan, for you alone and once.
    """
    if keep is not None and (keys or file is not None):
        raise CommandError("keys and --keep exclude each other")
    order = None if keep is not None else ordered(keys, file)
    with connection.open() as client:
        made = client.namespace(ns).prunes.plan(order, keep=keep, request_id=request_id)
    _print(connection, made, as_json=as_json)


def ordered(keys: list[str] | None, file: Path | None) -> list[str]:
    """The keys that were said, or that a file has a line of each. Raises CommandError."""
    if keys and file is not None:
        raise CommandError("say the keys, or --file")
    order = keys or ([] if file is None else _lines(file))
    if not order:
        raise CommandError("no key is named" if file is None else f"{file} names no key")
    return order


def _lines(file: Path) -> list[str]:
    name = "stdin" if str(file) == "-" else str(file)
    try:
        text = (sys.stdin.buffer.read() if name == "stdin" else file.read_bytes()).decode()
    except OSError as error:
        raise CommandError(f"{name} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise CommandError(f"{name} is not UTF-8: {error}") from None
    # Not splitlines, which breaks at characters that a key may have.
    return [line for each in text.split("\n") if (line := each.removesuffix("\r"))]


@connected
def show(
    connection: Connection,
    *,
    ns: NamespaceName,
    plan_id: Annotated[str, typer.Argument(metavar="PLAN", help="The plan's id.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show a plan, and what the guards say of it now."""
    with connection.open() as client:
        found = client.namespace(ns).prunes.get_plan(plan_id)
    _print(connection, found, as_json=as_json)


def _print(connection: Connection, found: PrunePlan, *, as_json: bool) -> None:
    from sfm_grpc.cli import output

    command = _next(connection, found)
    if as_json:
        facts = {"tenant": connection.tenant, **output.plain(found), "needs_confirmation": found.needs_confirmation}
        output.print_json({**facts, "apply": command})
        return
    output.print_facts(_facts(found))
    output.print_table(("Guard", "This >", "Lets pass >", "Says"), map(_guard_row, found.guards))
    if command:
        print(f"To have it so:\n  {output.clean(command)}")


def _facts(found: PrunePlan) -> Iterator[tuple[str, Any]]:
    from sfm_grpc.cli import output

    yield "plan", found.plan_id
    yield "namespace", found.namespace
    yield "state", found.state
    yield "asked", f"{output.time_of(found.create_time)}, by {found.committer or 'nobody'}{_source(found)}"
    yield "expires", output.time_of(found.expire_time)
    yield "would go", f"{found.memories} of {found.memories_before} memories, {output.size_of(found.payload_bytes)} of payloads"
    if found.sample_keys:
        yield "first", _some(found.sample_keys, found.memories)
    if found.unknown:
        yield "not there", f"{found.unknown}: {_some(found.unknown_keys, found.unknown)}"
    if found.duplicates:
        yield "said twice", found.duplicates
    if found.confirm_token:
        yield "token", found.confirm_token


def _source(found: PrunePlan) -> str:
    """Where it came from, if not from a call."""
    if found.source == "limit":
        return ", as of the memory limit"
    return f", by message {found.order_id}" if found.source == "message" else ""


def _some(keys: tuple[str, ...], count: int) -> str:
    shown = keys[:_KEYS_SHOWN]
    return ", ".join(shown) + (", …" if count > len(shown) else "")


def _guard_row(guard: PruneGuard) -> tuple[Any, ...]:
    from sfm_grpc.cli import output

    unit = " %" if guard.name == "prune_percent_max" else ""
    least = "at least " if guard.name.endswith("_min") else "at most "
    says = output.marked(not guard.tripped, "passes", "TRIPS: needs the token")
    return guard.name, f"{guard.value:.6g}{unit}", f"{least}{guard.bound:g}{unit}", says


def _next(connection: Connection, found: PrunePlan) -> str:
    """The command that applies it; "" where it does not wait, or nothing would go."""
    if found.state != "waiting" or not found.memories:
        return ""
    words = ["sfm", "prune", "apply", found.namespace, "--plan", found.plan_id]
    if found.confirm_token:
        words += ["--confirm-token", found.confirm_token]
    return shlex.join([*words, *connection.words()])


# ---- plans -----------------------------------------------------------------------------------------------------------


@connected
def plans(
    connection: Connection,
    *,
    ns: Annotated[
        str | None, typer.Argument(metavar="NS", help="The namespace; none: all of the tenant's.", show_default=False)
    ] = None,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="Only those: waiting, applied or expired.")] = None,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="At most this many; 0: all.")] = 20,
    as_json: Json = False,
) -> None:
    """List plans, the newest first.

    Among them are those that orders by message, or a memory limit, left waiting.
    """
    from sfm_grpc.cli import output

    named: Any = state
    with connection.open() as client:
        # One more than shown, to know whether there are more.
        page_size = min(limit + 1, _PAGE_SIZE) if limit else 0
        ask = client.prune_plans if ns is None else client.namespace(ns).prunes.plans
        found = list(islice(ask(state=named, page_size=page_size), limit + 1 if limit else None))
    shown = found[:limit] if limit else found
    if as_json:
        output.print_json({"tenant": connection.tenant, "plans": [_listed(each) for each in shown]})
        return
    columns = ("Plan", "Namespace ~", "State", "Memories >", "Of >", "From", "Asked", "By", "Expires")
    output.print_table(columns, map(_row, shown))
    if len(found) > len(shown):
        print("… and older ones; --limit 0 lists all")


def _listed(found: PrunePlan) -> dict[str, Any]:
    """A plan of a list, without what a list does not tell."""
    from sfm_grpc.cli import output

    facts: dict[str, Any] = output.plain(found)
    del facts["guards"], facts["confirm_token"]
    return facts


def _row(found: PrunePlan) -> tuple[object, ...]:
    from sfm_grpc.cli import output

    times = output.time_of(found.create_time), found.committer, output.time_of(found.expire_time)
    return found.plan_id, found.namespace, found.state, found.memories, found.memories_before, found.source, *times
