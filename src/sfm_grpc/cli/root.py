"""The tree of commands, and how every one of them ends."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from sfm_grpc.cli import (
    cache,
    events,
    exits,
    index,
    memory_bulk,
    memory_links,
    memory_reads,
    memory_search,
    memory_stats,
    memory_writes,
    namespace,
    prune_audits,
    prune_orders,
    prune_plans,
    rho_files,
    rho_history,
    rho_watch,
    verify,
)
from sfm_grpc.cli.config import config
from sfm_grpc.cli.help import epilog
from sfm_grpc.cli.migrate import migrate
from sfm_grpc.cli.serve import serve
from sfm_grpc.cli.status import healthcheck, status
from sfm_grpc.errors import SfmError, Unreachable
from sfm_grpc.version import __version__

_EXITS = [f"{code.value}  {meaning}" for code, meaning in exits.LIST]

# Plain help: it reads the same in a terminal, a pipe and a log, and needs nothing that is slow to import.
app = typer.Typer(
    name="sfm",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=epilog("Exit codes", *_EXITS),
)
rho = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
memories = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
namespaces = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
prunes = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
indexes = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
outbox = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
caches = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(rho, name="rho", help="Read, commit, watch, compare, restore and verify ρ.")
app.add_typer(memories, name="memory", help="Put, read, list, search, count, link, import, export, delete and undelete memories.")
app.add_typer(namespaces, name="namespace", help="Create namespaces for memories, describe and delete them.")
app.add_typer(prunes, name="prune", help="Plan, apply and undo prunes, read and verify their audits, limit memories.")
app.add_typer(indexes, name="index", help="Compare the vector index with the memories, and mend it.")
app.add_typer(outbox, name="events", help="Look at what is told to the rest of the world.")
app.add_typer(caches, name="cache", help="Look at the cache before the store, and switch it.")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sfm {__version__}")
        raise typer.Exit


@app.callback()
def sfm(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the release and exit.")
    ] = False,
) -> None:
    """The memory data plane: serve it, and ask a server that runs."""


app.command(
    epilog=epilog(
        "Examples",
        "sfm serve",
        "sfm serve --listen 127.0.0.1:0 --http-listen '' --data-dir /srv/sfm --ready-file /run/sfm.json",
        "SFM_TLS_CERT_FILE=… SFM_TLS_KEY_FILE=… sfm serve --listen 0.0.0.0:50051",
        "SFM_POSTGRES_URL=postgresql://sfm:…@db:5432/sfm sfm serve --migrate",
    )
)(serve)
app.command(
    epilog=epilog(
        "Examples",
        "SFM_POSTGRES_URL=postgresql://sfm:…@db:5432/sfm sfm migrate",
        "sfm migrate --check || sfm migrate",
        "sfm migrate --check --json",
    )
)(migrate)
app.command(epilog=epilog("Examples", "sfm config", "SFM_CONFIG_FILE=sfm.env sfm config --json"))(config)
app.command(
    epilog=epilog("Examples", "sfm status", "sfm status --namespace agent-7 --target 10.0.0.5:50051", "sfm status --json")
)(status)
app.command(epilog=epilog("Examples", "sfm healthcheck", "sfm healthcheck --service rho --target 127.0.0.1:50051"))(healthcheck)
app.command(
    "verify-export",
    epilog=epilog("Examples", "sfm verify-export agent-7.jsonl", "sfm verify-export agent-7.jsonl --epsilon 1e-10 --json"),
)(verify.verify_export)

rho.command("log", epilog=epilog("Examples", "sfm rho log agent-7", "sfm rho log agent-7 --limit 0 --json"))(rho_history.log)
rho.command("show", epilog=epilog("Examples", "sfm rho show agent-7", "sfm rho show agent-7 --version 12 --json"))(
    rho_history.show
)
rho.command(
    "get",
    epilog=epilog(
        "Examples",
        "sfm rho get agent-7 -o rho.npy                     the density matrix, for numpy.load",
        "sfm rho get agent-7 fd_sketch -o sketch.sfm        an envelope: it remembers layout and digest",
        "sfm rho get agent-7 --version 12 -o all.npz        every matrix of version 12",
    ),
)(rho_files.get)
rho.command(
    "commit",
    epilog=epilog(
        "Examples",
        "sfm rho commit agent-7 rho=rho.npy --expected-version 0",
        "sfm rho commit agent-7 rho=rho.sfm sketch=s.npy --delete old --expected-version 12 --meta why=repair",
        "sfm rho commit agent-7 rho=s.npy --factor rho --expected-version current --validate-only",
    ),
)(rho_files.commit)
rho.command(
    "watch",
    epilog=epilog(
        "Examples",
        "sfm rho watch agent-7",
        "sfm rho watch agent-7 --after 0 --count 100 --json | jq -c '[.version, .committer]'",
    ),
)(rho_watch.watch)
rho.command("diff", epilog=epilog("Examples", "sfm rho diff agent-7 11 12", "sfm rho diff agent-7 1 --json"))(rho_history.diff)
rho.command(
    "restore",
    epilog=epilog("Examples", "sfm rho restore agent-7 11", "sfm rho restore agent-7 last-valid --expected-version 14 --yes"),
)(rho_history.restore)
rho.command("verify", epilog=epilog("Examples", "sfm rho verify agent-7", "sfm rho verify agent-7 --all --epsilon 1e-10"))(
    verify.verify
)
rho.command("export", epilog=epilog("Examples", "sfm rho export agent-7 -o agent-7.jsonl && sfm verify-export agent-7.jsonl"))(
    rho_files.export
)

memories.command(
    "put",
    epilog=epilog(
        "Examples",
        """sfm memory put agent-7 tea '{"text": "likes tea"}' --type fact --importance 0.7""",
        "sfm memory put agent-7 page - --vector page.npy --create-only < page.json",
        "sfm memory put agent-7 tea --importance 0.9 --if-revision 3     only the importance changes",
        "sfm memory put agent-7 tea --no-vector --no-expiry              not found by search any more; there for ever",
    ),
)(memory_writes.put)
memories.command(
    "get",
    epilog=epilog(
        "Examples",
        "sfm memory get agent-7 tea --vector",
        "sfm memory get agent-7 tea --payload | jq .text",
        "sfm memory get agent-7 tea --vector --json | jq -c .vector",
    ),
)(memory_reads.get)
memories.command(
    "list",
    epilog=epilog(
        "Examples",
        "sfm memory list agent-7 --type fact --order importance --descending",
        "sfm memory list agent-7 --prefix chat/ --limit 0 --json",
        "sfm memory list agent-7 --updated-after 2026-01-31 --box 0:10,-5:5",
    ),
)(memory_reads.list_memories)
memories.command(
    "search",
    epilog=epilog(
        "Examples",
        "sfm memory search agent-7 --like tea --type fact",
        "sfm memory search agent-7 --vector-file query.npy --limit 5 --json",
        "embed 'hot drinks' | sfm memory search agent-7 --vector-file -",
    ),
)(memory_search.search)
memories.command(
    "delete", epilog=epilog("Examples", "sfm memory delete agent-7 tea coffee", "sfm memory delete agent-7 tea --if-revision 3")
)(memory_writes.delete)
memories.command(
    "import",
    epilog=epilog(
        "Examples",
        "sfm memory import agent-7 memories.jsonl",
        "zstdcat memories.jsonl.zst | sfm memory import agent-7 - --create-only --progress",
        "sfm memory import agent-7 memories.jsonl --from-line 120001",
    ),
)(memory_bulk.import_lines)
memories.command(
    "export",
    epilog=epilog(
        "Examples",
        "sfm memory export agent-7 -o memories.jsonl",
        "sfm memory export agent-7 --type fact --no-vectors | jq -r .key",
    ),
)(memory_bulk.export)
memories.command("undelete", epilog=epilog("Examples", "sfm memory undelete agent-7 tea coffee"))(memory_writes.undelete)
memories.command("purge", epilog=epilog("Examples", "sfm memory purge agent-7 tea --yes"))(memory_writes.purge)
memories.command(
    "stats", epilog=epilog("Examples", "sfm memory stats agent-7", "sfm memory stats agent-7 --min-importance 0.5 --json")
)(memory_stats.stats)
memories.command("link", epilog=epilog("Examples", "sfm memory link agent-7 tea goes-with biscuits --weight 0.8"))(
    memory_links.link
)
memories.command("unlink", epilog=epilog("Examples", "sfm memory unlink agent-7 tea goes-with biscuits"))(memory_links.unlink)
memories.command(
    "links", epilog=epilog("Examples", "sfm memory links agent-7 tea", "sfm memory links agent-7 biscuits --incoming --json")
)(memory_links.links)

namespaces.command(
    "create",
    epilog=epilog("Examples", "sfm namespace create agent-7 --dimension 384", "sfm namespace create geo --distance euclidean"),
)(namespace.create)
namespaces.command("list", epilog=epilog("Examples", "sfm namespace list", "sfm namespace list --json"))(
    namespace.list_namespaces
)
namespaces.command("describe", epilog=epilog("Examples", "sfm namespace describe agent-7"))(namespace.describe)
namespaces.command(
    "delete",
    epilog=epilog("Examples", "sfm namespace delete agent-7", "sfm namespace delete agent-7 --confirm agent-7 --if-revision 12"),
)(namespace.delete)

prunes.command(
    "plan",
    epilog=epilog(
        "Examples",
        "sfm prune plan agent-7 page/3 page/1",
        "sfm prune plan agent-7 --keep 10000",
        "rank agent-7 | sfm prune plan agent-7 --file - --json | jq -r .apply",
    ),
)(prune_plans.plan)
prunes.command("show", epilog=epilog("Examples", "sfm prune show agent-7 5f0c…"))(prune_plans.show)
prunes.command("plans", epilog=epilog("Examples", "sfm prune plans --state waiting", "sfm prune plans agent-7 --limit 0 --json"))(
    prune_plans.plans
)
prunes.command(
    "apply",
    epilog=epilog(
        "Examples",
        "sfm prune apply agent-7 page/3 page/1",
        "sfm prune apply agent-7 --file gone.txt --validate-only",
        "sfm prune apply agent-7 --plan 5f0c… --confirm-token 9d41…",
    ),
)(prune_orders.apply)
prunes.command("undo", epilog=epilog("Examples", "sfm prune undo agent-7 12", "sfm prune undo agent-7 12 --validate-only"))(
    prune_orders.undo
)
prunes.command(
    "audit",
    epilog=epilog(
        "Examples", "sfm prune audit agent-7 --after 100", "sfm prune audit agent-7 --verify", "sfm prune audit agent-7 --json"
    ),
)(prune_audits.audit)
prunes.command(
    "limit",
    epilog=epilog("Examples", "sfm prune limit agent-7", "sfm prune limit agent-7 100000 --policy prune"),
)(prune_audits.limit)

indexes.command("verify", epilog=epilog("Examples", "sfm index verify agent-7 || sfm index repair agent-7"))(index.verify)
indexes.command("repair", epilog=epilog("Examples", "sfm index repair agent-7", "sfm index repair agent-7 --rebuild --json"))(
    index.repair
)

outbox.command(
    "tail",
    epilog=epilog(
        "Examples",
        "sfm events tail --namespace agent-7",
        "sfm events tail --follow --topic rho.status --json | jq -c .payload",
    ),
)(events.tail)

caches.command("status", epilog=epilog("Examples", "sfm cache status", "sfm cache status agent-7 --json"))(cache.status)
caches.command("off", epilog=epilog("Examples", "sfm cache off agent-7", "sfm cache off --all"))(cache.off)
caches.command("on", epilog=epilog("Examples", "sfm cache on agent-7", "sfm cache on --all"))(cache.on)


def run() -> int:
    """Runs the command line; answers the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show ρ shows an escape, not a traceback.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        code = _invoke()
        sys.stdout.flush()
    except exits.CommandError as problem:
        _complain(str(problem))
        return problem.code
    except SfmError as error:
        code = exits.exit_of(error)
        _complain(error.sentence() + _hint(error, code))
    except OSError as error:
        # A full disk behind stdout, a pipe that nobody reads any more: what is left in the buffer has no place to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _complain(f"the answer cannot be written: {error.strerror or error}")
        return exits.Exit.USAGE
    return code


def _invoke() -> int:
    """Runs the command; typer ends each one, and every mistake in its use, with SystemExit."""
    try:
        app(prog_name="sfm")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return exits.Exit.OK


def _complain(sentence: str) -> None:
    from sfm_grpc.cli.output import say

    for line in sentence.splitlines():
        say(f"sfm: {line}")


def _hint(error: SfmError, code: exits.Exit) -> str:
    """What else helps: where the server might be, or where its log has more."""
    if isinstance(error, Unreachable):
        return "; is it running (sfm serve), is --target (SFM_TARGET) right, does it speak TLS (--tls)?"
    logged = code in (exits.Exit.UNREACHABLE, exits.Exit.WRONG) and error.request_id
    return f" (request {error.request_id})" if logged else ""
