"""A Postgres to develop with; its data stay."""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import sql

from tests.support.services.binaries import OWNER, Binaries, search
from tests.support.services.development import HOME, DevelopmentService, UnusableError

NAME = "sfm"
"""The database, and the account that owns it and nothing else."""
CONF = "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\ntimezone = 'UTC'\nlog_timezone = 'UTC'\n"


class DevelopmentPostgres(DevelopmentService):
    """The one cluster of a directory."""

    name = "postgres"
    title = "Postgres"
    variable = "SFM_POSTGRES_URL"
    keeps = "its data stay in"
    first_port = 15432

    def __init__(self, home: Path = HOME) -> None:
        super().__init__(home)
        self._data = self._home / "data"

    @property
    def url(self) -> str | None:
        """What the server is told; None while it is down."""
        if not (self._data / "PG_VERSION").exists() or not self._runs(self._binaries()):
            return None
        return f"postgresql://{NAME}@127.0.0.1:{self._port()}/{NAME}"

    def up(self) -> str:
        """Starts it if it is down; its URL."""
        binaries = self._binaries()
        self._prepare(binaries.account)
        self._initialize(binaries)
        if not self._runs(binaries):
            options = f"-c port={self._free_port()}"
            binaries.run("pg_ctl", "start", "-w", "-t", "60", "-D", self._data, "-l", self._log, "-o", options)
        url = self.url
        assert url is not None, f"it does not stay: see {self._log}"
        self._make_database(self._port())
        self._remember(url=url, server=str(binaries), data=str(self._data))
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

    def _initialize(self, binaries: Binaries) -> None:
        if not (self._data / "PG_VERSION").exists():
            asked = ["--username", OWNER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-instructions"]
            binaries.run("initdb", "--pgdata", self._data, *asked)
            with (self._data / "postgresql.conf").open("a") as file:
                file.write(CONF)

    def _make_database(self, port: int) -> None:
        with psycopg.connect(f"postgresql://{OWNER}@127.0.0.1:{port}/postgres", autocommit=True) as c:
            name = sql.Identifier(NAME)
            if not c.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [NAME]).fetchone():
                c.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
            if not c.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME]).fetchone():
                c.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))
