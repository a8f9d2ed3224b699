"""`sfm memory put`, `delete`, `undelete` and `purge`: what changes memories."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli.asking import ask
from sfm_grpc.cli.connection import Connection, Json, connected, repeatable
from sfm_grpc.cli.exits import CommandError
from sfm_grpc.cli.rho_history import NamespaceName

if TYPE_CHECKING:
    from sfm_grpc.client import Memories, MemoryReceipt

Key = Annotated[str, typer.Argument(metavar="KEY", help="The memory.", show_default=False)]
Keys = Annotated[list[str], typer.Argument(metavar="KEY…", help="The memories, all or none of them.", show_default=False)]
IfRevision = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Only if the memory has this revision (exit code 4 otherwise).")
]

# ---- put -------------------------------------------------------------------------------------------------------------


@connected
def put(
    connection: Connection,
    *,
    ns: NamespaceName,
    key: Key,
    payload: Annotated[
        str | None,
        typer.Argument(
            metavar="[JSON|-]",
            help="The text, kept byte for byte; -: from stdin; none: only what the options say changes.",
            show_default=False,
        ),
    ] = None,
    memory_type: Annotated[str | None, typer.Option("--type", metavar="TYPE", help="What kind of memory it is.")] = None,
    importance: Annotated[float | None, typer.Option(metavar="X", help="How much it matters.")] = None,
    coordinate: Annotated[list[float] | None, typer.Option(metavar="X", help="Where it is; up to 8 times.")] = None,
    vector: Annotated[
        Path | None, typer.Option(metavar="FILE.npy|-", help="Its vector, kept as float32; -: from stdin. JSON is fine, too.")
    ] = None,
    ttl: Annotated[float | None, typer.Option(metavar="SECONDS", help="How long it is there; default: always.")] = None,
    no_coordinates: Annotated[bool, typer.Option("--no-coordinates", help="Without JSON: take its coordinates away.")] = False,
    no_vector: Annotated[bool, typer.Option("--no-vector", help="Without JSON: take its vector away.")] = False,
    no_expiry: Annotated[bool, typer.Option("--no-expiry", help="Without JSON: it is there for ever again.")] = False,
    wait_indexed: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Wait at most so long until a search can find it.")
    ] = None,
    create_only: Annotated[bool, typer.Option("--create-only", help="Only if the key is absent.")] = False,
    if_revision: IfRevision = None,
    request_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Repeat the put that had this id, to learn whether it happened.")
    ] = None,
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Run every check and record nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Put a memory.

    With JSON it becomes what is said here and nothing else; without, what the options say changes and the rest stays.
    """
    parts: dict[str, Any] = {"memory_type": memory_type, "importance": importance, "coordinates": coordinate, "ttl_s": ttl}
    parts = {name: value for name, value in parts.items() if value is not None}
    if vector is not None:
        parts["vector"] = vector
    taken = {"coordinates": no_coordinates, "vector": no_vector, "ttl_s": no_expiry}
    parts |= _taken_away([part for part, said in taken.items() if said], parts, whole=payload is not None)
    if create_only and if_revision is not None:
        raise CommandError("--create-only and --if-revision exclude each other")
    if payload is None and (create_only or not parts):
        raise CommandError("say the JSON (or - for stdin); without it, some options are what changes of a memory that exists")
    if payload == "-" and str(vector) == "-":
        raise CommandError("stdin is either the JSON or the vector")
    text = None if payload is None else _text(payload)
    if vector is not None:
        from sfm_grpc.cli.files import read_vector

        parts["vector"] = read_vector(vector)
    how = {"if_revision": if_revision, "request_id": request_id, "validate_only": validate_only, "wait_indexed_s": wait_indexed}
    with connection.open() as client:
        receipt = _put(client.namespace(ns).memories, key, text, parts, create_only=create_only, how=how)
    _print(connection, ns, [receipt], validate_only=validate_only, as_json=as_json)
    if wait_indexed is not None and not (receipt.indexed or validate_only):
        from sfm_grpc.cli.output import say

        say(f"the index does not have it yet, after {wait_indexed:g} s; it will")


def _taken_away(taken: Sequence[str], said: Mapping[str, Any], *, whole: bool) -> dict[str, None]:
    """The parts that the memory shall not have any more. Raises CommandError."""
    for part in taken:
        option = {"ttl_s": "expiry"}.get(part, part)
        if whole:
            raise CommandError(f"--no-{option} is for a put without JSON; with it the memory has what is said and nothing else")
        if part in said:
            raise CommandError(f"--no-{option} and an option that says otherwise exclude each other")
    return dict.fromkeys(taken)


def _put(
    memories: Memories, key: str, text: str | None, parts: dict[str, Any], *, create_only: bool, how: dict[str, Any]
) -> MemoryReceipt:
    """Puts; an error whose outcome is unknown says how to find out."""
    from sfm_grpc.client import RawJson
    from sfm_grpc.client.flows import new_request_id

    how["request_id"] = how["request_id"] or new_request_id()
    with repeatable(how["request_id"], "put"):
        if text is None:
            return memories.update(key, **parts, **how)
        return memories.put(key, RawJson(text), create_only=create_only, **parts, **how)


def _text(payload: str) -> str:
    """What was said, or what stdin has. Raises CommandError."""
    if payload != "-":
        return payload
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise CommandError(f"stdin is not UTF-8: {error}") from None


# ---- delete, undelete, purge -----------------------------------------------------------------------------------------


@connected
def delete(
    connection: Connection, *, ns: NamespaceName, keys: Keys, if_revision: IfRevision = None, as_json: Json = False
) -> None:
    """Delete memories. They can be undeleted for a while; what is absent already is left alone."""
    if if_revision is not None and len(keys) > 1:
        raise CommandError("--if-revision is of one memory")
    with connection.open() as client:
        memories = client.namespace(ns).memories
        told = memories.delete_many(keys) if if_revision is None else [memories.delete(keys[0], if_revision=if_revision)]
    _print(connection, ns, told, as_json=as_json)


@connected
def undelete(connection: Connection, *, ns: NamespaceName, keys: Keys, as_json: Json = False) -> None:
    """Make deleted memories be there again as they were."""
    with connection.open() as client:
        told = client.namespace(ns).memories.undelete(keys)
    _print(connection, ns, told, as_json=as_json)


@connected
def purge(
    connection: Connection,
    *,
    ns: NamespaceName,
    keys: Keys,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete memories for good.

    Living or deleted: nothing of them is kept, and undelete cannot bring them back.
    """
    from sfm_grpc.cli.output import clean

    named = clean(repr(keys[0])) + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
    ask(f"Delete {named} of {clean(ns)} for good?", yes=yes, what="purge cannot be taken back")
    with connection.open() as client:
        told = client.namespace(ns).memories.purge(keys)
    _print(connection, ns, told, as_json=as_json)


def _print(connection: Connection, ns: str, told: Sequence[MemoryReceipt], *, validate_only: bool = False, as_json: bool) -> None:
    from sfm_grpc.cli import output

    if as_json:
        facts = {"namespace": ns, "tenant": connection.tenant, "validate_only": validate_only}
        output.print_json({**facts, "receipts": told})
        return
    if validate_only:
        print("valid; nothing was recorded, this is what would have been")
    elif told[0].replayed:
        print("this was done before, by this request; this is the first answer again")
    output.print_table(("Key", "Outcome", "Revision >", "SHA-256 of the payload"), map(_row, told))


def _row(receipt: MemoryReceipt) -> tuple[object, ...]:
    return receipt.key, receipt.outcome, receipt.revision or "", receipt.payload_digest.hex()[:16]
