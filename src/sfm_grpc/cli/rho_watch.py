"""`sfm rho watch`: a line for each version, as it is made."""

from __future__ import annotations

import contextlib
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from sfm_grpc.cli.connection import Connection, Json, connected
from sfm_grpc.cli.rho_history import LOG_COLUMNS, NamespaceName, log_row

if TYPE_CHECKING:
    from sfm_grpc.client import RhoVersion, WatchedSnapshot


@connected
def watch(
    connection: Connection,
    *,
    ns: NamespaceName,
    after: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="What follows this version, 0: all; default: the newest and what follows it."),
    ] = None,
    newest_only: Annotated[bool, typer.Option("--newest-only", help="Skip what is not the newest any more.")] = False,
    count: Annotated[int | None, typer.Option(min=1, metavar="N", help="End after so many; default: with Ctrl-C.")] = None,
    as_json: Json = False,
) -> None:
    """Follow a namespace: one line a version, as it is committed.

    The namespace need not exist yet. With --json each line is a document of its own.
    """
    from sfm_grpc.cli import output

    lines = output.Lines(LOG_COLUMNS)
    with (
        contextlib.suppress(KeyboardInterrupt),  # how whoever watches says that it is enough
        connection.open() as client,
        client.namespace(ns).watch(after, newest_only=newest_only, numbers=False) as watched,
    ):
        for snapshot in islice(watched, count):
            version = _version(snapshot)
            if as_json:
                output.print_json_line(version)
            else:
                lines.add(log_row(version))


def _version(snapshot: WatchedSnapshot) -> RhoVersion:
    """The version as `sfm rho log` would list it."""
    from sfm_grpc.client import Entry, RhoVersion

    return RhoVersion(
        version=snapshot.version,
        commit_time=snapshot.commit_time,
        committer=snapshot.committer,
        metadata=snapshot.metadata,
        valid=snapshot.valid,
        restored_version=snapshot.restored_version,
        entries=tuple(Entry(key, c, snapshot.put_versions[key]) for key, c in snapshot.certificates.items()),
        changed_keys=snapshot.changed_keys,
    )
