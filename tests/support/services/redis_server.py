"""A Redis or Valkey server of our own: one that may be stopped, killed, frozen, and set back to what it once knew."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import redis

from tests.support.services.kept import WAIT_S
from tests.support.services.redis_binaries import Program
from tests.support.services.redis_process import ADMIN, SECRET, RedisProcess
from tests.support.services.waiting import until

EVERYTHING = "~* &* +@all"
_MORE_THAN_THERE_ARE = 99


class RedisServer(RedisProcess):
    """One server. It saves nothing, unless told to: whatever ends it empties it."""

    def __init__(
        self,
        program: Program,
        *,
        conf: Mapping[str, object] | None = None,
        user: str | None = None,
        password: str | None = None,
        rules: str = EVERYTHING,
        tls: bool = False,
        replica_of: RedisServer | None = None,
    ) -> None:
        """`conf` are lines of redis.conf: a directive, and what comes after it (a list: several such lines).

        A `password` is asked of everyone who comes by TCP: of the default user, or of `user` while the default one is off;
        `rules` are what that one may do, as ACL SETUSER says it. With `tls` none comes without. A replica is read-only, and has
        the password and the TLS of its master: say them for both.
        """
        assert password is not None or user is None
        assert replica_of is None or replica_of._tls == tls
        super().__init__(program, closed=password is not None, tls=tls)
        who = f"{quote(user or '', safe='')}:{quote(password, safe='')}@" if password is not None else ""
        self._url = self._url.replace("://", f"://{who}")
        self._master = replica_of
        self._dumps = itertools.count()
        told: dict[str, object] = {"save": '""', "appendonly": "no"}
        told |= {"repl-diskless-sync-delay": 0}  # else it waits five seconds for more replicas to come
        told |= {"rdb-del-sync-files": "yes"}  # else a replica restarts with what its master once sent
        if password is not None:
            told |= {"user": _users(user, password, rules), "masteruser": ADMIN, "masterauth": SECRET}
        if tls:
            told["tls-replication"] = "yes"
        if replica_of is not None:
            told["replicaof"] = f"127.0.0.1 {replica_of.port}"
        told |= dict(conf or {})
        self._saves, self._logs = told["save"] != '""', told["appendonly"] != "no"
        self._configure(told)

    @property
    def run_id(self) -> str:
        """Another one after each start."""
        with self.client() as c:
            return str(c.info("server")["run_id"])

    def start(self) -> Self:
        """Returns when it answers, with what it has saved; a replica when it has all that its master has, if that one answers."""
        super().start()
        if self._master is not None and self._master.answers:
            self.until_in_sync(self._master)
        return self

    def until_in_sync(self, master: RedisServer) -> None:
        """Returns when it has all that this master has, and is sent what is to come.

        Its own word, that the link is up, is not enough, nor is the master's, that it is online: for up to a second both say so,
        and nothing that is written goes that way yet. So it has to answer to something that the master says after that.
        """
        hope = f"{self.name} on port {self.port} follows port {master.port}"
        until(lambda: self._heard_by(master) is not None and self.replication().get("master_link_status") == "up", hope)
        with master.client() as c:
            c.wait(_MORE_THAN_THERE_ARE, 1)  # has every replica asked how far it is
            due = c.info("replication")["master_repl_offset"]
        until(lambda: (self._heard_by(master) or 0) >= due, hope)

    def _heard_by(self, master: RedisServer) -> int | None:
        """How far that master knows it to be; None if it does not count it among those to be sent what is written."""
        replicas = [known for name, known in master.replication().items() if name.startswith("slave") and isinstance(known, dict)]
        return next((int(r["offset"]) for r in replicas if r["port"] == self.port and r["state"] == "online"), None)

    def replication(self) -> dict[str, Any]:
        """What it says about that; {} while it does not answer (a Sentinel ends every connection of whom it changes)."""
        with self.client() as c, contextlib.suppress(redis.ConnectionError):
            return dict(c.info("replication"))
        return {}

    def configure(self, **directives: object) -> None:
        """CONFIG SET, until it ends: `configure(maxmemory="10mb", maxmemory_policy="noeviction")`."""
        with self.client() as c:
            for name, value in directives.items():
                c.config_set(name.replace("_", "-"), str(value))

    def dump(self) -> Path:
        """What it holds now, for `restart_with`."""
        with self.client(socket_timeout=WAIT_S) as c:
            c.save()
        kept = self._root / f"dump-{next(self._dumps)}.rdb"
        (shutil.copy if self._saves else shutil.move)(self._root / "dump.rdb", kept)
        return kept

    def restart_with(self, dump: Path) -> None:
        """SIGKILL, then a start that knows what the dump knows and nothing since: as after a restore from a backup."""
        assert not self._logs, "its append-only file says more than a dump"
        self.kill()
        loaded = Path(shutil.copy(dump, self._root / "dump.rdb"))
        self._own(loaded)
        self.start()
        if not self._saves:
            loaded.unlink()  # it is not known again at the next start


def _users(user: str | None, password: str, rules: str) -> list[str]:
    asked = f"{user or 'default'} on {_digest(password)} {rules}"
    return [f"{ADMIN} on {_digest(SECRET)} {EVERYTHING}", *(["default off"] if user else []), asked]


def _digest(password: str) -> str:
    """As ACL rules have it: nothing in it needs quotes."""
    return "#" + hashlib.sha256(password.encode()).hexdigest()
