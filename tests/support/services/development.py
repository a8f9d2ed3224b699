"""A Postgres to develop with: it outlives the command that starts it, on the same port, with its data under ./var."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tests.support.paths import ROOT
from tests.support.services.binaries import OWNER, Binaries, search

HOME = ROOT / "var" / "services"
PORT = 15432
NAME = "sfm"
"""The database, and the account that owns it and nothing else."""
CONF = "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\ntimezone = 'UTC'\nlog_timezone = 'UTC'\n"


class UnusableError(Exception):
    """Why there is no development Postgres here, and what to do."""


class DevelopmentPostgres:
    """The one cluster of a directory. What is so, the cluster itself says; the state file is for programs that want to know."""

    name = "postgres"
    variable = "SFM_POSTGRES_URL"

    def __init__(self, home: Path = HOME) -> None:
        self._home = home / self.name
        self._data, self._log, self._state = self._home / "data", self._home / "log", home / "state.json"

    @property
    def where(self) -> str:
        """Its data, as one would type it."""
        return str(self._home.relative_to(ROOT) if self._home.is_relative_to(ROOT) else self._home)

    @property
    def url(self) -> str | None:
        """What the server is told; None while it is down."""
        if not (self._data / "PG_VERSION").exists() or not self._runs(self._binaries()):
            return None
        return f"postgresql://{NAME}@127.0.0.1:{self._port()}/{NAME}"

    def up(self) -> str:
        """Starts it if it is down; its URL."""
        binaries = self._binaries()
        self._prepare(binaries)
        if not self._runs(binaries):
            options = f"-c port={_free_port(self._port_before())}"
            binaries.run("pg_ctl", "start", "-w", "-t", "60", "-D", self._data, "-l", self._log, "-o", options)
        url = self.url
        assert url is not None, f"it does not stay: see {self._log}"
        self._make_database(self._port())
        state = _read(self._state) | {self.name: {"url": url, "server": str(binaries), "data": str(self._data)}}
        self._state.write_text(json.dumps(state, indent=2) + "\n")
        return url

    def down(self) -> bool:
        """Stops it, with its data on the disk; whether it was up."""
        was_up = self.url is not None
        if was_up:
            self._binaries().run("pg_ctl", "stop", "-w", "-t", "60", "-m", "fast", "-D", self._data)
        return was_up

    def _binaries(self) -> Binaries:
        """Those that wrote the data, or the best there are."""
        looked = search()
        wrote = self._data / "PG_VERSION"
        major = int(wrote.read_text()) if wrote.exists() else None
        for binaries in looked.found:
            if major in (None, binaries.version[0]):
                return binaries
        if major is not None:
            raise UnusableError(
                f"{self.where} was written by Postgres {major}, which is not here: install it, or move {self.where} away"
            )
        raise UnusableError("no Postgres: " + "; ".join(looked.reasons))

    def _runs(self, binaries: Binaries) -> bool:
        return binaries.try_run("pg_ctl", "status", "-D", self._data).returncode == 0

    def _port(self) -> int:
        return int((self._data / "postmaster.pid").read_text().splitlines()[3])

    def _prepare(self, binaries: Binaries) -> None:
        account = binaries.account
        self._home.mkdir(parents=True, exist_ok=True)
        account.own(self._home)
        if not account.may("-w", self._home):
            raise UnusableError(
                f"root runs Postgres as {account.name}, who may not enter {self._home}: name another place with --dir"
            )
        if not (self._data / "PG_VERSION").exists():
            asked = ["--username", OWNER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-instructions"]
            binaries.run("initdb", "--pgdata", self._data, *asked)
            with (self._data / "postgresql.conf").open("a") as file:
                file.write(CONF)

    def _port_before(self) -> int:
        """The last one, so that a URL that was exported stays good."""
        return urlsplit(_read(self._state).get(self.name, {}).get("url", "")).port or PORT

    def _make_database(self, port: int) -> None:
        with psycopg.connect(f"postgresql://{OWNER}@127.0.0.1:{port}/postgres", autocommit=True) as c:
            name = sql.Identifier(NAME)
            if not c.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [NAME]).fetchone():
                c.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
            if not c.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME]).fetchone():
                c.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))


def _read(state: Path) -> dict[str, Any]:
    return dict(json.loads(state.read_text())) if state.exists() else {}


def _free_port(first: int) -> int:
    for port in range(first, first + 100):
        with contextlib.suppress(OSError), socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            return port
    raise UnusableError(f"no port is free from {first} to {first + 99}")
