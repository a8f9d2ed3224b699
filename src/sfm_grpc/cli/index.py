"""`sfm index verify` and `repair`: whether the vector index has what it should have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli.connection import Connection, Json, connected
from sfm_grpc.cli.exits import Exit
from sfm_grpc.cli.rho_history import NamespaceName

if TYPE_CHECKING:
    from sfm_grpc.client import IndexReport

_KEYS_SHOWN = 10


@connected
def verify(connection: Connection, *, ns: NamespaceName, as_json: Json = False) -> None:
    """Compare what the vector index has of a namespace with its memories.

    It takes as long as it takes; searches and writes go on. Exit code 1 when anything is missing, orphaned or stale.
    """
    from sfm_grpc.cli import output

    with connection.open() as client, output.phases() as tell:
        report = client.namespace(ns).memories.verify_index(on_progress=lambda step: tell(step.phase, step.done, step.total))
    _print(connection, ns, report, as_json=as_json)


@connected
def repair(
    connection: Connection,
    *,
    ns: NamespaceName,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Make all of it anew. Searches find little until it is done.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare, and put right what is wrong.

    One that is cut off goes on by being called again. Exit code 1 when anything is still wrong afterwards.
    """
    from sfm_grpc.cli import output

    with connection.open() as client, output.phases() as tell:
        memories = client.namespace(ns).memories
        report = memories.repair_index(rebuild=rebuild, on_progress=lambda step: tell(step.phase, step.done, step.total))
    _print(connection, ns, report, as_json=as_json)


def _print(connection: Connection, ns: str, report: IndexReport, *, as_json: bool) -> None:
    from sfm_grpc.cli import output

    if as_json:
        output.print_json({"namespace": ns, "tenant": connection.tenant, "ok": report.ok, **output.plain(report)})
    else:
        output.print_facts(_facts(report))
    if not report.ok:
        raise typer.Exit(Exit.WRONG)


def _facts(report: IndexReport) -> Iterator[tuple[str, Any]]:
    from sfm_grpc.cli import output

    wrong = {"missing": report.missing, "orphaned": report.orphaned, "stale": report.stale}
    told = ", ".join(f"{count} {name}" for name, count in wrong.items() if count)
    yield "index", output.marked(report.ok, "has what it should have", f"WRONG: {told}")
    yield "memories", report.memories
    yield "points", report.points
    yield "revision", report.indexed_revision
    if report.refused:
        yield "refused", f"{report.refused} it does not take: sfm namespace describe tells why"
    if report.mended:
        yield "mended", report.mended
    if report.sample_keys:
        more = ", …" if len(report.sample_keys) > _KEYS_SHOWN else ""
        yield "such as", ", ".join(report.sample_keys[:_KEYS_SHOWN]) + more
