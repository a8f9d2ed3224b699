"""A Postgres cluster of our own: one that may be stopped, killed and frozen."""

from __future__ import annotations

import ctypes
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from psycopg import sql

from tests.support.paths import ROOT
from tests.support.services import ports
from tests.support.services.binaries import OWNER, Binaries
from tests.support.services.databases import Postgres
from tests.support.services.kept import WAIT_S, Kept
from tests.support.services.places import MEMORY, remove, temporary

TLS = ROOT / "tests" / "support" / "tls"
_STOP = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class PostgresServer(Postgres):
    """A cluster in a temporary directory, on a port of this machine's loopback; both are gone when it is closed.

    Durability is as it is by default: what a commit has acknowledged survives `kill`.
    """

    def __init__(
        self,
        binaries: Binaries,
        *,
        conf: Mapping[str, object] | None = None,
        password: str | None = None,
        tls: bool = False,
        inside: Path | None = None,
    ) -> None:
        """`conf` are lines of postgresql.conf; a `password` is asked of everyone who comes by TCP; with `tls` none comes without.

        `inside` is where its directory is made, for a test that has a disk of its own to fill.
        """
        self.port = ports.free()
        secret = f":{quote(password, safe='')}" if password else ""
        super().__init__(f"postgresql://{OWNER}{secret}@127.0.0.1:{self.port}/postgres")
        self.name = str(binaries)
        self.binaries = binaries
        self._conf, self._password, self._tls = dict(conf or {}), password, tls
        self._kept: Kept | None = None
        account, base = binaries.account, binaries.initialized
        self._root = temporary(account, "pg", inside=inside)
        self._data, self._log = self._root / "data", self._root / "log"
        subprocess.run(["cp", "-a", base, self._data], check=True, cwd="/", **account.spawning)
        self._configure()
        if self._root.parent == MEMORY and binaries.version >= (15,):
            self._strategy = sql.SQL(" STRATEGY file_copy")  # half the time, where a checkpoint costs nothing

    def _configure(self) -> None:
        conf: dict[str, object] = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self._root,
            "dynamic_shared_memory_type": "mmap",  # in its own directory, so that nothing stays after a kill
            "max_wal_size": "128MB",  # each database from a template writes 7 MB of log
        }
        if self._tls:
            for path in (self._root / "server.pem", self._root / "server.key"):
                shutil.copyfile(TLS / path.name, path)
                path.chmod(0o600)
                self.binaries.account.own(path)
            conf |= {"ssl": "on", "ssl_cert_file": self._root / "server.pem", "ssl_key_file": self._root / "server.key"}
        quoted = [f"{name} = '{str(value).replace(chr(39), chr(39) * 2)}'" for name, value in (conf | self._conf).items()]
        with (self._data / "postgresql.conf").open("a") as file:
            file.write("\n".join(["", *quoted, ""]))
        tcp = f"{'hostssl' if self._tls else 'host'} all all 127.0.0.1/32 {'scram-sha-256' if self._password else 'trust'}"
        (self._data / "pg_hba.conf").write_text(f"local all all trust\n{tcp}\n")

    @property
    def running(self) -> bool:
        """Until it and all its children are gone; a frozen one runs."""
        return self._kept is not None and self._kept.running

    @property
    def pid(self) -> int:
        """The postmaster's."""
        assert self._kept is not None
        return self._kept.pid

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> Self:
        """Returns when it answers, which after a kill is when it has recovered."""
        assert not self.running
        command = [self.binaries.directory / "postgres", "-D", self._data]
        self._kept = Kept(command, account=self.binaries.account, log=self._log, farewell=signal.SIGQUIT, remove=self._root)
        self._await_ready()
        if self._password:
            with self.connect() as c:
                c.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(OWNER), sql.Literal(self._password)))
        return self

    def _await_ready(self) -> None:
        until = time.monotonic() + WAIT_S
        while not self._ready():
            if not self.running:
                raise AssertionError(f"{self.name} did not start: {self.log}")
            assert time.monotonic() < until, f"{self.name} does not answer: {self.log}"
            time.sleep(0.005)

    def _ready(self) -> bool:
        """As `pg_ctl -w` knows it: the postmaster says so in its pid file, beside its pid."""
        lines = _pid_file(self._data)
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def stop(self, mode: str = "fast") -> None:
        """As `pg_ctl stop -m`: `smart` waits for the last client, `fast` sends them away, `immediate` leaves a log to replay."""
        if self._kept is not None:
            self.thaw()
            self._kept.send(_STOP[mode])
            self._kept.wait()

    def kill(self) -> None:
        """SIGKILL to the postmaster and all its children at one moment, as when a container dies; returns when all are gone."""
        if self._kept is not None:
            self._kept.send_all(signal.SIGKILL)
            self._kept.wait()

    def restart(self, mode: str = "fast") -> None:
        """On the same port, with the same data."""
        self.stop(mode)
        self.start()

    def freeze(self) -> None:
        """SIGSTOP to the postmaster and all its children: connections stay, the kernel accepts new ones, nobody answers."""
        assert self._kept is not None
        self._kept.send_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """They go on as if nothing had been."""
        if self._kept is not None:
            self._kept.send_all(signal.SIGCONT)

    def _way_in(self, database: str) -> str:
        """By its Unix socket: no password, no TLS, no proxy."""
        return (
            f"postgresql://{OWNER}@/{quote(database or OWNER, safe='')}?host={quote(str(self._root), safe='')}&port={self.port}"
        )

    def close(self) -> None:
        """The end, whatever state it is in; its directory is gone."""
        if self._kept is not None:
            self._kept.close()
        forget(self._data)
        remove(self._root)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def forget(data: Path) -> None:
    """Frees what the kernel keeps for a cluster that was killed and is not started again; after a good end there is nothing."""
    for line in _pid_file(data)[6:7]:
        ctypes.CDLL(None).shmctl(int(line.split()[1]), 0, None)


def _pid_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []
