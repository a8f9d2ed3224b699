"""`sfm memory link`, `unlink` and `links`: from one memory to another."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from sfm_grpc.cli.connection import Connection, Json, connected
from sfm_grpc.cli.memory_writes import Key
from sfm_grpc.cli.rho_history import NamespaceName

if TYPE_CHECKING:
    from sfm_grpc.client import Link

_PAGE_SIZE = 50

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="The memory that it leads from.", show_default=False)]
Type = Annotated[str, typer.Argument(metavar="TYPE", help="What kind of link it is, in your own words.", show_default=False)]
Target = Annotated[str, typer.Argument(metavar="TARGET", help="The memory that it leads to.", show_default=False)]


@connected
def link(
    connection: Connection,
    *,
    ns: NamespaceName,
    source: Source,
    link_type: Type,
    target_key: Target,
    weight: Annotated[float, typer.Option(metavar="X", help="How strong it is.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Link a memory to another. A link that is there takes the weight."""
    with connection.open() as client:
        client.namespace(ns).memories.link(source, link_type, target_key, weight)
    from sfm_grpc.cli import output

    if as_json:
        facts = {"source": source, "link_type": link_type, "target": target_key, "weight": weight}
        output.print_json({"namespace": ns, "tenant": connection.tenant, **facts})
    else:
        print(f"{output.clean(source)} is linked to {output.clean(target_key)}: {output.clean(link_type)}, {weight:g}")


@connected
def unlink(
    connection: Connection, *, ns: NamespaceName, source: Source, link_type: Type, target_key: Target, as_json: Json = False
) -> None:
    """Delete a link. One that is absent already is left alone."""
    with connection.open() as client:
        deleted = client.namespace(ns).memories.unlink(source, link_type, target_key).deleted
    from sfm_grpc.cli import output

    if as_json:
        output.print_json({"namespace": ns, "tenant": connection.tenant, "deleted": deleted})
    else:
        print("the link is deleted" if deleted else "there was no such link")


@connected
def links(
    connection: Connection,
    *,
    ns: NamespaceName,
    key: Key,
    incoming: Annotated[bool, typer.Option("--incoming", help="Those that lead to it, instead of those from it.")] = False,
    link_type: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Only of this type; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="At most this many; 0: all.")] = 20,
    as_json: Json = False,
) -> None:
    """List a memory's links with memories that exist."""
    from sfm_grpc.cli import output

    with connection.open() as client:
        # One more than shown, to know whether there are more.
        page_size = min(limit + 1, _PAGE_SIZE) if limit else 0
        memories = client.namespace(ns).memories
        listed = memories.links(key, incoming=incoming, link_types=link_type or (), page_size=page_size)
        found = list(islice(listed, limit + 1 if limit else None))
    shown = found[:limit] if limit else found
    if as_json:
        output.print_json({"namespace": ns, "tenant": connection.tenant, "links": shown})
        return
    output.print_table(("Source", "Type", "Target", "Weight >", "Written"), map(_row, shown))
    if len(found) > len(shown):
        print("… and more; --limit 0 lists all")


def _row(each: Link) -> tuple[object, ...]:
    from sfm_grpc.cli import output

    written = output.time_of(each.update_time) if each.update_time else ""
    return each.source, each.link_type, each.target, f"{each.weight:g}", written
