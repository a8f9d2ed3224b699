"""`sfm events tail`: what the server tells the rest of the world, a line for each event."""

from __future__ import annotations

import contextlib
import json
from itertools import islice
from typing import Annotated

import typer

from sfm_grpc.cli.connection import Connection, Json, connected

_COLUMNS = ("Event >", "Time", "Topic", "Namespace", "Version >", "What")


@connected
def tail(
    connection: Connection,
    *,
    namespace: Annotated[str, typer.Option("--namespace", metavar="NAME", help="Of this namespace; default: of all.")] = "",
    topic: Annotated[
        list[str] | None, typer.Option("--topic", metavar="NAME", help="Of this topic; may be said again; default: of all.")
    ] = None,
    after: Annotated[int, typer.Option(min=0, metavar="ID", help="What follows this event; default: all that are kept.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written, until Ctrl-C.")] = False,
    count: Annotated[int | None, typer.Option(min=1, metavar="N", help="End after so many.")] = None,
    as_json: Json = False,
) -> None:
    """Show the events in the server's outbox, oldest first, whether Kafka has them or not.

    With --json each line is a document of its own.
    """
    from sfm_grpc.cli import output

    lines = output.Lines(_COLUMNS)
    with (
        contextlib.suppress(KeyboardInterrupt),  # how whoever follows says that it is enough
        connection.open() as client,
        client.tail_events(namespace, topic or (), after=after, follow=follow) as events,
    ):
        for event in islice(events, count):
            if as_json:
                output.print_json_line(event)
            else:
                what = json.dumps(output.plain(_shown(event.payload)), ensure_ascii=False)
                lines.add((event.event_id, output.time_of(event.time), event.topic, event.namespace, event.version, what))


def _shown(payload: object) -> object:
    """What the other columns do not say already."""
    if not isinstance(payload, dict):
        return payload
    return {name: value for name, value in payload.items() if name not in ("timestamp", "tenant", "namespace", "version")}
