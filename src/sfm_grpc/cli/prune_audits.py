"""`sfm prune audit` and `limit`: what was done, whether that can be believed, and how many memories there may be."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli.connection import Connection, Json, connected
from sfm_grpc.cli.exits import CommandError, Exit
from sfm_grpc.cli.rho_history import NamespaceName

if TYPE_CHECKING:
    from sfm_grpc.client import AuditReport, MemoryLimit, PruneAudit

_PAGE_SIZE = 500


@connected
def audit(
    connection: Connection,
    *,
    ns: NamespaceName,
    after: Annotated[int, typer.Option(min=0, metavar="N", help="Only those after this number.")] = 0,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="At most this many; 0: all.")] = 20,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compute the chain of hashes again, from the first; exit code 1 where it breaks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List what was pruned and undone in a namespace, by number; or verify it.

    With --json each has its record, the text that the hashes are of.
    """
    from sfm_grpc.cli import output

    if verify and after:
        raise CommandError("--verify begins with the first: it takes no --after")
    with connection.open() as client:
        prunes = client.namespace(ns).prunes
        if verify:
            _print_verified(connection, ns, prunes.verify_audits(), as_json=as_json)
            return
        # One more than shown, to know whether there are more.
        page_size = min(limit + 1, _PAGE_SIZE) if limit else _PAGE_SIZE
        found = list(islice(prunes.audits(after=after, page_size=page_size), limit + 1 if limit else None))
    shown = found[:limit] if limit else found
    if as_json:
        output.print_json({"namespace": ns, "tenant": connection.tenant, "audits": shown})
        return
    columns = ("Number >", "When", "What", "Memories >", "Skipped >", "By", "From", "Plan", "Version >")
    output.print_table(columns, map(_row, shown))
    if len(found) > len(shown):
        print(f"… and more; --after {shown[-1].number} goes on, --limit 0 lists all")


def _row(each: PruneAudit) -> tuple[object, ...]:
    from sfm_grpc.cli import output

    what = f"undo of {each.undo_of}" if each.undo_of else each.action
    source = f"message {each.order_id}" if each.order_id else each.source
    counts = what, each.memories, each.skipped or ""
    return each.number, output.time_of(each.time), *counts, each.committer, source, each.plan_id, each.version or ""


def _print_verified(connection: Connection, ns: str, report: AuditReport, *, as_json: bool) -> None:
    from sfm_grpc.cli import output

    if as_json:
        output.print_json({"namespace": ns, "tenant": connection.tenant, "ok": report.ok, **output.plain(report)})
    else:
        holds = f"hold{'s' if report.audits == 1 else ''}, from the first on"
        wrong = f"WRONG at {report.wrong_number}: {report.problem}"
        output.print_facts(
            [
                ("chain", output.marked(report.ok, "is whole", wrong)),
                ("audits", f"{report.audits} {holds}"),
                ("last hash", report.last_hash.hex()),
            ]
        )
    if not report.ok:
        raise typer.Exit(Exit.WRONG)


# ---- limit -----------------------------------------------------------------------------------------------------------


@connected
def limit(
    connection: Connection,
    *,
    ns: NamespaceName,
    memories_max: Annotated[
        int | None,
        typer.Argument(metavar="N", min=0, help="Set it; 0: any number; none: only show it.", show_default=False),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="refuse|prune",
            help="With N: what becomes of those beyond it; default: refuse. prune: the least important go, within the guards.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how many memories a namespace may have and has, or set it.

    What is there already stays until something is put.
    """
    from sfm_grpc.cli import output

    if memories_max is None and policy is not None:
        raise CommandError("--policy goes with a number")
    named: Any = policy or "refuse"
    with connection.open() as client:
        prunes = client.namespace(ns).prunes
        found = prunes.limit() if memories_max is None else prunes.set_limit(memories_max, named)
    if as_json:
        output.print_json({"namespace": ns, "tenant": connection.tenant, **output.plain(found)})
        return
    output.print_facts([("memories", found.memories), ("at most", found.memories_max or "any number"), *_beyond(found)])


def _beyond(found: MemoryLimit) -> list[tuple[str, str]]:
    if not found.memories_max:
        return []
    words = {"refuse": "refused", "prune": "pruned a little later, within the guards"}
    return [("beyond", words.get(found.policy, found.policy))]
