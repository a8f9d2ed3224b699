"""`sfm cache status`, `off` and `on`: the cache before the server's store, of one's own tenant's namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfm_grpc.cli.connection import Connection, Json, connected
from sfm_grpc.cli.exits import CommandError

if TYPE_CHECKING:
    from sfm_grpc.client import CachePage, Client, NamespaceCache

_PAGE_SIZE = 500

MaybeNamespace = Annotated[str, typer.Argument(metavar="[NS]", help="The namespace; none: all of the tenant's.")]
OneNamespace = Annotated[str, typer.Argument(metavar="[NS]", help="The namespace; or --all.")]
All = Annotated[bool, typer.Option("--all", help="All of the tenant's namespaces.")]


@connected
def status(connection: Connection, ns: MaybeNamespace = "", as_json: Json = False) -> None:
    """Show whether the cache answers, and before which namespaces it stands."""
    from sfm_grpc.cli import output

    with connection.open() as client:
        first, namespaces = _all(client, ns)
    if as_json:
        facts = {"configured": first.configured, "ok": first.ok, "detail": first.detail}
        output.print_json({**facts, "tenant": connection.tenant, "namespaces": namespaces})
        return
    output.print_facts([("cache", output.marked(first.ok, first.detail, f"NO: {first.detail}"))])
    if namespaces:
        print()
        output.print_table(("Namespace ~", "Version >", "Cache", "Since epoch >", "Registered ~"), map(_row, namespaces))


def _all(client: Client, ns: str) -> tuple[CachePage, list[NamespaceCache]]:
    first = page = client.cache_page(ns, page_size=0 if ns else _PAGE_SIZE)
    found = list(page.namespaces)
    while page.next_page_token:
        page = client.cache_page(page_size=_PAGE_SIZE, page_token=page.next_page_token)
        found += page.namespaces
    return first, found


def _row(cache: NamespaceCache) -> tuple[Any, ...]:
    state = f"{cache.state}, turned off by hand" if cache.held else cache.state
    return cache.namespace, cache.version, state, cache.epoch, cache.registered


@connected
def off(connection: Connection, ns: OneNamespace = "", every: All = False) -> None:
    """Turn the cache off, and wait until no read is answered from it any more. It stays off until `sfm cache on`."""
    _switch(connection, ns, every=every, enabled=False)


@connected
def on(connection: Connection, ns: OneNamespace = "", every: All = False) -> None:
    """Let the cache be used again: it is, as soon as somebody reads or commits."""
    _switch(connection, ns, every=every, enabled=True)


def _switch(connection: Connection, ns: str, *, every: bool, enabled: bool) -> None:
    if bool(ns) is every:
        raise CommandError("name a namespace, or say --all")
    with connection.open() as client:
        count = client.switch_cache(ns, every=every, enabled=enabled)
    from sfm_grpc.cli import output

    what = f"{count} namespaces" if every else output.clean(ns)
    print(f"the cache of {what} is {'on as soon as somebody reads or commits' if enabled else 'off and drained'}")
