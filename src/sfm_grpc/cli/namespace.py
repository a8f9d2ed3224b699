"""`sfm namespace create`, `list`, `describe` and `delete`: namespaces as wholes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli.connection import Connection, Json, connected, repeatable
from sfm_grpc.cli.exits import CommandError, Exit
from sfm_grpc.cli.rho_history import NamespaceName

if TYPE_CHECKING:
    from sfm_grpc.client import Client, ConfirmationRequired, DeletedNamespace, NamespaceInfo

_PAGE_SIZE = 500


@connected
def create(
    connection: Connection,
    *,
    ns: NamespaceName,
    dimension: Annotated[
        int, typer.Option(min=0, metavar="D", help="How many numbers its vectors have; 0: as many as the first one.")
    ] = 0,
    distance: Annotated[
        str, typer.Option(metavar="DISTANCE", help="How vectors are compared: cosine, dot or euclidean.")
    ] = "cosine",
    as_json: Json = False,
) -> None:
    """Create a namespace for memories. One that is the same already is left alone.

    The first put creates one too: with the dimension of its vector, and cosine.
    """
    from sfm_grpc.cli import output

    said: Any = distance
    with connection.open() as client:
        done = client.create_namespace(ns, dimension, said)
    if as_json:
        output.print_json({"tenant": connection.tenant, **output.plain(done)})
        return
    print(f"{output.clean(ns)} {'existed already, the same' if done.existed else 'is created'}")
    output.print_facts(_facts(done.namespace))


@connected
def list_namespaces(connection: Connection, *, as_json: Json = False) -> None:
    """List the tenant's namespaces that have memories, or were created."""
    from sfm_grpc.cli import output

    with connection.open() as client:
        found = list(client.namespaces(page_size=_PAGE_SIZE))
    if as_json:
        output.print_json({"tenant": connection.tenant, "namespaces": found})
        return
    columns = ("Namespace ~", "Memories >", "Vectors >", "Dimension >", "Distance", "Payloads >", "Revision >", "Written")
    output.print_table(columns, map(_row, found))


def _row(info: NamespaceInfo) -> tuple[object, ...]:
    from sfm_grpc.cli import output

    dimension = info.dimension or ""
    payloads, written = output.size_of(info.payload_bytes), output.time_of(info.update_time)
    return info.name, info.memories, info.vectors, dimension, info.distance, payloads, info.revision, written


@connected
def describe(connection: Connection, *, ns: NamespaceName, as_json: Json = False) -> None:
    """Show what is known of a namespace's memories as a whole."""
    from sfm_grpc.cli import output

    with connection.open() as client:
        info = client.namespace(ns).memories.describe()
    if as_json:
        output.print_json({"tenant": connection.tenant, **output.plain(info)})
        return
    output.print_facts([("namespace", info.name), *_facts(info), ("index", _index(info)), *_refused(info)])


def _index(info: NamespaceInfo) -> str:
    indexed = info.indexed_revision or 0
    return "has every write" if indexed >= info.revision else f"has the writes up to revision {indexed}"


def _refused(info: NamespaceInfo) -> Iterator[tuple[str, str]]:
    """Memories that no search finds, a line each."""
    for place, one in enumerate(info.refused):
        yield "" if place else "refused", f"{one.key}, revision {one.revision}: {one.reason}"


def _facts(info: NamespaceInfo) -> Iterator[tuple[str, Any]]:
    from sfm_grpc.cli import output

    yield "dimension", info.dimension or "the first vector's"
    yield "distance", info.distance
    yield "memories", f"{info.memories}, {info.vectors} of them with a vector"
    mean = f", {output.size_of(round(info.payload_bytes / info.memories))} on average" if info.memories else ""
    yield "payloads", output.size_of(info.payload_bytes) + mean
    if info.vectors:
        yield "vectors", output.size_of(4 * info.dimension * info.vectors)
    yield "deleted", f"{info.tombstones} still kept"
    yield "revision", info.revision
    yield "created", output.time_of(info.create_time)
    yield "written", output.time_of(info.update_time)


# ---- delete ----------------------------------------------------------------------------------------------------------


@connected
def delete(
    connection: Connection,
    *,
    ns: NamespaceName,
    confirm: Annotated[
        str, typer.Option(metavar="NAME", help="The namespace once more; default: it is asked for, on a terminal.")
    ] = "",
    if_revision: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only if its memories are at this revision (exit code 4 otherwise).")
    ] = None,
    request_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Repeat the deletion that had this id, to learn whether it happened.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Delete a namespace: its memories and links for good, its matrices by a commit.

    It says first how much would go. Should it come into being again, its versions and revisions go on where they were.
    """
    from sfm_grpc.cli import output

    with connection.open() as client:
        done = _delete(client, ns, confirm, if_revision=if_revision, request_id=request_id)
    if as_json:
        output.print_json({"namespace": ns, "tenant": connection.tenant, **output.plain(done)})
        return
    print(f"{output.clean(ns)} is deleted{_where(done)}")
    if done.replayed:
        print("this was done before, by this request; this is the first answer again")


def _delete(client: Client, ns: str, confirm: str, *, if_revision: int | None, request_id: str | None) -> DeletedNamespace:
    """Deletes, once the name was said again; an error whose outcome is unknown says how to find out."""
    from sfm_grpc.client import ConfirmationRequired
    from sfm_grpc.client.flows import new_request_id

    how: dict[str, Any] = {"if_revision": if_revision, "request_id": request_id or new_request_id()}
    with repeatable(how["request_id"], "deleted"):
        try:
            return client.delete_namespace(ns, confirm=confirm, **how)
        except ConfirmationRequired as required:
            return client.delete_namespace(ns, confirm=_typed(required, said=confirm), **how)


def _typed(required: ConfirmationRequired, *, said: str) -> str:
    """The name as a person types it once more. Raises CommandError where it is another, or there is nobody to ask."""
    name = required.namespace
    memories = f"{required.memories} memor{'y' if required.memories == 1 else 'ies'} of {name!r} for good"
    matrices = f"{required.matrices} matri{'x' if required.matrices == 1 else 'ces'} by a commit"
    told = f"this deletes {memories}, and {matrices}"
    if said:
        raise CommandError(f"--confirm {said!r} is not its name, and nothing was deleted; {told}", Exit.REFUSED)
    if not sys.stdin.isatty():
        raise CommandError(f"{told}: to have it so, say --confirm {name}", Exit.REFUSED)
    from sfm_grpc.cli import output

    output.say(told)
    typed: str = typer.prompt("Type its name to have it so", err=True)
    if typed != name:
        raise CommandError("that is not its name; nothing was deleted", Exit.REFUSED)
    return typed


def _where(done: DeletedNamespace) -> str:
    marks = [f"{what} {number}" for what, number in (("revision", done.revision), ("version", done.version)) if number]
    return f" ({', '.join(marks)})" if marks else ""
