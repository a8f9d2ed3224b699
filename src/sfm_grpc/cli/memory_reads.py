"""`sfm memory get` and `list`: what memories are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli import memory_filters
from sfm_grpc.cli.connection import Connection, Json, connected
from sfm_grpc.cli.memory_writes import Key
from sfm_grpc.cli.rho_history import NamespaceName

if TYPE_CHECKING:
    from sfm_grpc.client import MemoryRecord

_PAYLOAD_SHOWN = 60
_NUMBERS_SHOWN = 8
_PAGE_SIZE = 50

# ---- get -------------------------------------------------------------------------------------------------------------


@connected
def get(
    connection: Connection,
    *,
    ns: NamespaceName,
    key: Key,
    vector: Annotated[bool, typer.Option("--vector", help="The vector, too; with --json all its numbers.")] = False,
    payload: Annotated[bool, typer.Option("--payload", help="Print the payload alone, byte for byte.")] = False,
    as_json: Json = False,
) -> None:
    """Show a memory."""
    from sfm_grpc.cli import output

    with connection.open() as client:
        memory = client.namespace(ns).memories.get(key, with_vector=vector)
    if payload:
        _print_exactly(memory.payload_json)
    elif as_json:
        output.print_json({"namespace": ns, "tenant": connection.tenant, **plain(memory)})
    else:
        output.print_facts(_facts(memory))


def _print_exactly(text: str) -> None:
    import sys

    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())


def plain(memory: MemoryRecord) -> dict[str, Any]:
    """As JSON has it. The payload stays text: its numbers may be longer than a program's."""
    from sfm_grpc.cli import output

    facts: dict[str, Any] = output.plain(memory)
    facts["vector"] = None if memory.vector is None else memory.vector.tolist()
    facts["expire_time"] = output.plain(memory.expire_time)
    del facts["expire_time_us"]
    return facts


def _facts(memory: MemoryRecord) -> Iterator[tuple[str, Any]]:
    from sfm_grpc.cli import output

    yield "key", memory.key
    yield "revision", memory.revision
    if memory.memory_type:
        yield "type", memory.memory_type
    yield "importance", memory.importance
    if memory.coordinates:
        yield "coordinates", ", ".join(map(str, memory.coordinates))
    if memory.vector is not None:
        first = ", ".join(f"{number:g}" for number in memory.vector[:_NUMBERS_SHOWN])
        more = ", …" if len(memory.vector) > _NUMBERS_SHOWN else ""
        yield "vector", f"{len(memory.vector)} numbers: {first}{more}"
    yield "created", f"{output.time_of(memory.create_time)} ({output.ago(memory.create_time)} ago)"
    yield "written", f"{output.time_of(memory.update_time)} ({output.ago(memory.update_time)} ago)"
    if memory.expire_time:
        yield "expires", output.time_of(memory.expire_time)
    yield "SHA-256", memory.payload_digest.hex()
    yield "payload", memory.payload_json


# ---- list ------------------------------------------------------------------------------------------------------------


@connected
def list_memories(
    connection: Connection,
    *,
    ns: NamespaceName,
    prefix: memory_filters.Prefix = "",
    memory_type: memory_filters.Types = None,
    min_importance: memory_filters.MinImportance = None,
    max_importance: memory_filters.MaxImportance = None,
    created_after: memory_filters.CreatedAfter = None,
    created_before: memory_filters.CreatedBefore = None,
    updated_after: memory_filters.UpdatedAfter = None,
    updated_before: memory_filters.UpdatedBefore = None,
    box: memory_filters.Box = None,
    order: Annotated[
        str, typer.Option(metavar="ORDER", help="key, create_time, update_time or importance; equal ones go by key.")
    ] = "key",
    descending: Annotated[bool, typer.Option("--descending", help="The largest, latest, last first.")] = False,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="At most this many; 0: all.")] = 20,
    as_json: Json = False,
) -> None:
    """List memories."""
    from sfm_grpc.cli import output

    asked = memory_filters.chosen(
        prefix=prefix,
        types=memory_type,
        importance=(min_importance, max_importance),
        created=(created_after, created_before),
        updated=(updated_after, updated_before),
        box=box,
    )
    by: Any = order
    with connection.open() as client:
        # One more than shown, to know whether there are more.
        page_size = min(limit + 1, _PAGE_SIZE) if limit else 0
        listed = client.namespace(ns).memories.list(page_size=page_size, order=by, descending=descending, **asked)
        found = list(islice(listed, limit + 1 if limit else None))
    shown = found[:limit] if limit else found
    if as_json:
        memories = [plain(memory) for memory in shown]
        output.print_json({"namespace": ns, "tenant": connection.tenant, "memories": memories})
        return
    output.print_table(("Key", "Revision >", "Type", "Importance >", "Written", "Expires", "Payload ~"), map(_row, shown))
    if len(found) > len(shown):
        print("… and more; --limit 0 lists all")


def _row(memory: MemoryRecord) -> tuple[object, ...]:
    from sfm_grpc.cli import output

    return (
        memory.key,
        memory.revision,
        memory.memory_type,
        memory.importance,
        output.time_of(memory.update_time),
        output.time_of(memory.expire_time) if memory.expire_time else "",
        shortened(memory.payload_json),
    )


def shortened(text: str) -> str:
    """A payload as a cell of a table has it."""
    from sfm_grpc.cli import output

    return text if len(text) <= _PAYLOAD_SHOWN else f"{text[:_PAYLOAD_SHOWN]}… ({output.size_of(len(text.encode()))})"
