"""A master, a replica, and the Sentinel that makes the one the other: all of our own."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.support.services.redis_binaries import Program
from tests.support.services.redis_process import ADMIN, SECRET, RedisProcess
from tests.support.services.redis_server import RedisServer
from tests.support.services.waiting import until

SERVICE = "mymaster"
_PERIODS_MS = {"info-period": 300, "ask-period": 100, "publish-period": 100}
"""How often it looks. By default up to ten seconds pass until it sees what is, and eight until it makes an old master a replica.
A shorter ping-period would be no help: a replica that was asked a second ago does then not count as one to be chosen."""
_FAILOVER_TIMEOUT_MS = 3000
"""Twice as long it lets a master be that it has just made."""


class Sentinel(RedisProcess):
    """The process: impatient after every start, too."""

    def __init__(self, program: Program, conf: list[str], tls: bool) -> None:
        super().__init__(program, mode=["--sentinel"], tls=tls)
        self._configure({"sentinel": conf, **({"tls-replication": "yes"} if tls else {})})

    def start(self) -> Self:
        """Returns when it answers; it may not have looked yet."""
        super().start()
        with self.client() as c:
            c.execute_command("SENTINEL", "DEBUG", *(word for pair in _PERIODS_MS.items() for word in pair))
        return self


class RedisSentinel:
    """One Sentinel, whose word is enough (quorum 1), and two servers. All three may be stopped, killed and frozen."""

    def __init__(self, program: Program, *, down_after_ms: int = 1000, **options: Any) -> None:
        """A master that is silent for `down_after_ms` is replaced. The options of the servers are those of `RedisServer`."""
        self.name = f"sentinel of {program}"
        first = RedisServer(program, **options)
        self.servers = (first, RedisServer(program, replica_of=first, **options))
        told = [
            f"monitor {SERVICE} 127.0.0.1 {first.port} 1",
            f"down-after-milliseconds {SERVICE} {down_after_ms}",
            f"failover-timeout {SERVICE} {_FAILOVER_TIMEOUT_MS}",
        ]
        if options.get("password") is not None:
            told += [f"auth-user {SERVICE} {ADMIN}", f"auth-pass {SERVICE} {SECRET}"]
        self.sentinel = Sentinel(program, told, bool(options.get("tls")))

    @property
    def url(self) -> str:
        """What a program under test is told: the Sentinel, the master's name there, and what a server asks for."""
        parts = urlsplit(self.servers[0].url)
        who, at, _ = parts.netloc.rpartition("@")
        return f"{parts.scheme}+sentinel://{who}{at}127.0.0.1:{self.sentinel.port}/{SERVICE}"

    @property
    def master(self) -> RedisServer:
        """Whom the Sentinel names."""
        with self.sentinel.client() as c:
            _, port = c.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self.servers if server.port == int(port))

    @property
    def replica(self) -> RedisServer:
        """The other one."""
        master = self.master
        return next(server for server in self.servers if server is not master)

    def start(self) -> Self:
        """Returns when the replica has all that the master has, and the Sentinel knows that."""
        for server in self.servers:
            server.start()
        self.sentinel.start()
        self._until_replica_is_known()
        return self

    def failover(self) -> None:
        """Makes the replica the master; returns when the old one follows it."""
        replica = self.replica
        with self.sentinel.client() as c:
            c.execute_command("SENTINEL", "FAILOVER", SERVICE)
        self.until_master(replica)

    def until_master(self, server: RedisServer) -> None:
        """Returns when the Sentinel names it, it is, and the other one follows it if that one answers."""
        until(lambda: self._is_master(server), f"port {server.port} is the master")
        if (other := self.replica).answers:
            other.until_in_sync(server)
            self._until_replica_is_known()

    def _is_master(self, server: RedisServer) -> bool:
        """And nothing goes on any more: the flags say no `failover_in_progress`."""
        with self.sentinel.client() as c:
            flags = _facts(c.execute_command("SENTINEL", "MASTER", SERVICE))["flags"]
        return flags == "master" and self.master is server and server.replication().get("role") == "master"

    def _until_replica_is_known(self) -> None:
        until(self._knows_replica, f"the {self.name} knows the replica")

    def _knows_replica(self) -> bool:
        """As one that it could choose."""
        with self.sentinel.client() as c:
            said = c.execute_command("SENTINEL", "REPLICAS", SERVICE)
        return len(said) == 1 and (facts := _facts(said[0]))["flags"] == "slave" and facts["master-link-status"] == "ok"

    def close(self) -> None:
        """The end of all three, whatever state they are in."""
        with contextlib.ExitStack() as stack:
            for process in (*self.servers, self.sentinel):
                stack.callback(process.close)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _facts(said: Any) -> dict[str, str]:
    """Both as the second protocol tells it, a flat list, and as the third does."""
    pairs = said.items() if isinstance(said, dict) else zip(said[::2], said[1::2], strict=True)
    return {name.decode(): value.decode() for name, value in pairs}
