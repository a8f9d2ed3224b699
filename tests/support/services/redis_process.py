"""One Redis, Valkey or Sentinel process of our own, and what all that answer have in common."""

from __future__ import annotations

import secrets
import shutil
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.paths import ROOT
from tests.support.services import ports
from tests.support.services.kept import WAIT_S, Kept
from tests.support.services.places import remove, temporary
from tests.support.services.redis_binaries import Program

TLS = ROOT / "tests" / "support" / "tls"
ADMIN, SECRET = "sfm-admin", secrets.token_hex(16)
"""The account by which we come in where a password is asked, and by which our servers come to each other."""


def connect(url: str, **options: Any) -> redis.Redis:
    """A plain look into what answers there: bytes in and out, and each command tried once. Close it, or say `with`."""
    return redis.Redis.from_url(url, **_plain(options))


class RunningRedis:
    """A running Redis or Valkey, whoever started it."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self.name = name

    @property
    def url(self) -> str:
        """What a program under test is told."""
        return self._url

    def client(self, **options: Any) -> redis.Redis:
        """A test's own look into it, as `connect`."""
        return connect(self._url, **options)

    def close(self) -> None:
        """It stays: it is not ours."""


class RedisProcess(RunningRedis):
    """A process in a temporary directory, on a port of this machine's loopback; both are gone when it is closed."""

    def __init__(self, program: Program, *, mode: Iterable[str] = (), closed: bool = False, tls: bool = False) -> None:
        """`mode` are arguments of the program; a `closed` one asks for a password, and knows `ADMIN`."""
        self.port = ports.free()
        super().__init__(f"{'rediss' if tls else 'redis'}://127.0.0.1:{self.port}/0", str(program))
        self.program = program
        self._mode, self._tls = tuple(mode), tls
        self._way_in = {"username": ADMIN, "password": SECRET} if closed else {}
        self._kept: Kept | None = None
        self._frozen = False
        self._root = temporary(program.account, "redis")
        self._conf, self._log, self._socket = self._root / "conf", self._root / "log", self._root / "socket"

    def _configure(self, conf: Mapping[str, object]) -> None:
        """Directives and the words after them; a list is one line each. Those that every process needs may be overruled."""
        usual: dict[str, object] = {
            "bind": "127.0.0.1",
            "port": 0 if self._tls else self.port,
            "unixsocket": self._socket,
            "dir": self._root,
        }
        if self._tls:
            for path in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key"):
                self._own(Path(shutil.copy(TLS / path, self._root)))
            usual |= {"tls-port": self.port, "tls-auth-clients": "no", "tls-ca-cert-file": self._root / "ca.pem"}
            usual |= {"tls-cert-file": self._root / "server.pem", "tls-key-file": self._root / "server.key"}
            usual |= {"tls-client-cert-file": self._root / "client.pem", "tls-client-key-file": self._root / "client.key"}
        told = [(name, value) for name, values in (usual | dict(conf)).items() for value in _each(values)]
        self._conf.write_text("".join(f"{name} {value}\n" for name, value in told))
        self._own(self._conf)  # cluster nodes and sentinels write there

    def _own(self, path: Path) -> None:
        path.chmod(0o600)
        self.program.account.own(path)

    @property
    def running(self) -> bool:
        """Until it and all its children are gone; a frozen one runs."""
        return self._kept is not None and self._kept.running

    @property
    def answers(self) -> bool:
        """It runs, and nobody has frozen it."""
        return self.running and not self._frozen

    @property
    def pid(self) -> int:
        """Its own; a child that saves has another."""
        assert self._kept is not None
        return self._kept.pid

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def client(self, **options: Any) -> redis.Redis:
        """By its Unix socket: no TLS, no proxy, and every right, whatever is asked of others."""
        return redis.Redis(unix_socket_path=str(self._socket), **_plain(self._way_in | options))

    def start(self) -> Self:
        """Returns when it answers, which is when it has loaded what it finds."""
        assert not self.running
        self._frozen = False
        command = [self.program.path, self._conf, *self._mode]
        # It is asked to go by SIGKILL, for there is nothing to be saved, and it would wait for a replica that is behind.
        self._kept = Kept(command, account=self.program.account, log=self._log, farewell=signal.SIGKILL, remove=self._root)
        self._await_ready()
        return self

    def _await_ready(self) -> None:
        end = time.monotonic() + WAIT_S
        while not self._ready():
            if not self.running:
                raise AssertionError(f"{self.name} did not start: {self.log}")
            assert time.monotonic() < end, f"{self.name} does not answer: {self.log}"
            time.sleep(0.005)

    def _ready(self) -> bool:
        with self.client() as c:
            try:
                return bool(c.ping())
            except redis.ConnectionError:  # nobody listens, or it is loading
                return False

    def stop(self) -> None:
        """SIGTERM, as one stops a service: it saves if it is to, and waits up to ten seconds for replicas that are behind."""
        if self._kept is not None:
            self.thaw()
            self._kept.send(signal.SIGTERM)
            self._kept.wait()

    def kill(self) -> None:
        """SIGKILL to it and its children at one moment, as when a container dies; returns when all are gone."""
        if self._kept is not None:
            self._kept.send_all(signal.SIGKILL)
            self._kept.wait()

    def restart(self) -> None:
        """On the same port; with what it has saved, which is nothing unless `conf` says so."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP to it and its children: connections stay, the kernel accepts new ones, nobody answers."""
        assert self._kept is not None
        self._kept.send_all(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        """They go on as if nothing had been."""
        if self._kept is not None:
            self._kept.send_all(signal.SIGCONT)
            self._frozen = False

    def close(self) -> None:
        """The end, whatever state it is in; its directory is gone."""
        if self._kept is not None:
            self._kept.close()
        remove(self._root)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"socket_timeout": 10, "socket_connect_timeout": 10, "retry": Retry(NoBackoff(), 0)} | dict(options)


def _each(values: object) -> list[object]:
    return list(values) if isinstance(values, list | tuple) else [values]
