"""`sfm serve`: the process that serves, from its settings to its drain."""

from __future__ import annotations

import gc
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sfm_grpc.cli.exits import CommandError

if TYPE_CHECKING:
    from sfm_grpc.app import App
    from sfm_grpc.settings import Settings

_log = logging.getLogger(__name__)


def serve(
    *,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="gRPC address; port 0 takes a free one. [SFM_LISTEN]")
    ] = None,
    http_listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="HTTP address for probes, metrics and the status page; '' for none. [SFM_HTTP_LISTEN]"
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the data lies; created when missing. [SFM_DATA_DIR]")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow an address beyond loopback without TLS. [SFM_INSECURE]")
    ] = False,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Bring Postgres' schema up to date first. [SFM_POSTGRES_MIGRATE]")
    ] = False,
    allow_unsafe_durability: Annotated[
        bool,
        typer.Option(
            "--allow-unsafe-durability", help="Serve from a Postgres that may lose commits. [SFM_ALLOW_UNSAFE_DURABILITY]"
        ),
    ] = False,
    ready_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="When serving, write the addresses there as JSON; removed at the end.")
    ] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Then calls in flight are finished, and the exit code is 0. Without any option: SQLite in ./var, on loopback; with
    SFM_POSTGRES_URL: Postgres. `sfm config` lists every setting. What goes to stdout begins with the line `gRPC HOST:PORT`; logs
    go to stderr.
    """
    from sfm_grpc.settings import ConfigError, load

    given = {
        "listen": listen,
        "http_listen": http_listen,
        "data_dir": data_dir,
        "insecure": insecure or None,
        "postgres_migrate": migrate or None,
        "allow_unsafe_durability": allow_unsafe_durability or None,
    }
    try:
        settings = load({name: value for name, value in given.items() if value is not None})
    except ConfigError as error:
        raise CommandError(str(error)) from None
    from sfm_grpc import early, logs
    from sfm_grpc.errors import SfmError, StoreRefused

    logs.configure(settings.log_level, settings.log_format)
    early.start(settings)
    try:
        _run(settings, ready_file)
    except StoreRefused as error:
        raise CommandError(f"cannot serve: {error.problem}") from None
    except SfmError as error:
        raise CommandError(f"cannot serve: {error}") from None
    except OSError as error:
        raise CommandError(f"cannot serve: {_sentence(error)}") from None


def _run(settings: Settings, ready_file: Path | None) -> None:
    work = _serve(settings, ready_file)
    try:
        import uvloop
    except ModuleNotFoundError:  # not made for Windows
        import asyncio

        asyncio.run(work)
    else:
        uvloop.run(work)


async def _serve(settings: Settings, ready_file: Path | None) -> None:
    from sfm_grpc.app import App, stop_signals

    async with stop_signals() as stop, App(settings) as app:
        # What is there now stays: a full collection of it holds the event loop for 50 ms, of the rest for 0.1.
        gc.collect()
        gc.freeze()
        _announce(app, ready_file)
        try:
            await stop.wait()
            _log.info("stopping: calls in flight have %g s", settings.drain_s)
            await app.drain()
        finally:
            _remove(ready_file)
    _log.info("stopped")


def _sentence(error: OSError) -> str:
    """OSErrors of our own are sentences already; the system's have a file and a reason."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


# ---- what is said when it serves -------------------------------------------------------------------------------------


def _announce(app: App, ready_file: Path | None) -> None:
    from sfm_grpc import stores

    facts = {"grpc": app.address, "http": app.http_address, "data": stores.place(app.settings)}
    if app.settings.log_format == "json":
        # Whoever reads JSON lines reads nothing else.
        _log.info("serving", extra=facts)
    else:
        print("\n".join(_banner(app, facts["data"])), flush=True)
    if ready_file is not None:  # last: by then everything is said
        _write_whole(ready_file, json.dumps(facts) + "\n")


def _write_whole(path: Path, text: str) -> None:
    """All of it at once: whoever waits for the file never reads half of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def _remove(path: Path | None) -> None:
    if path is not None:
        path.unlink(missing_ok=True)


def _banner(app: App, data: str) -> list[str]:
    settings = app.settings
    reach = _reachable(app.address)
    target = "" if reach == "127.0.0.1:50051" else f" --target {reach}"
    tls = bool(settings.tls_cert_file)
    sizes = f"-max-msg-sz {settings.message_bytes_max + 65_536}"
    lines = [
        f"gRPC {app.address}",
        f"HTTP {app.http_address}" if app.http_address else "HTTP none",
        f"data {data}",
        "",
        "Next, in another terminal:",
        f"  sfm status{target}{' --tls' if tls else ''}",
        f"  grpcurl {'' if tls else '-plaintext '}{sizes} {reach} list",
    ]
    if app.http_address:
        lines.append(f"  curl http://{_reachable(app.http_address)}/healthz")
    if Path("examples/cognitive_manager").is_dir():
        lines.append("  make demo          (a cognitive manager, against a server of its own)")
    return [*lines, "Ctrl-C stops it."]


def _reachable(address: str) -> str:
    """An address to type: one that listens everywhere is reached on loopback too."""
    host, _, port = address.rpartition(":")
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host) + f":{port}"  # noqa: S104
