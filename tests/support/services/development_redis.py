"""A Redis (or Valkey) to develop with; what it holds goes when it is stopped, as a cache's contents may."""

from __future__ import annotations

from pathlib import Path

import redis

from tests.support.services.development import HOME, DevelopmentService, UnusableError
from tests.support.services.redis_binaries import Program, search
from tests.support.services.redis_process import connect
from tests.support.services.waiting import until


class DevelopmentRedis(DevelopmentService):
    """The one server of a directory."""

    name = "redis"
    title = "Redis"
    variable = "SFM_REDIS_URL"
    keeps = "its log stays in"
    first_port = 16379

    def __init__(self, home: Path = HOME) -> None:
        super().__init__(home)
        self._conf = self._home / "redis.conf"

    @property
    def url(self) -> str | None:
        """What the server is told; None while it is down, whoever else may have taken its port."""
        url = f"redis://127.0.0.1:{self._port_before()}/0"
        try:
            with connect(url, socket_timeout=5) as c:
                ours = Path(c.info("server")["config_file"]) == self._conf
        except redis.RedisError:
            return None
        return url if ours else None

    def up(self) -> str:
        """Starts it if it is down; its URL."""
        if (running := self.url) is not None:
            return running
        program = self._program()
        self._prepare(program.account)
        url = f"redis://127.0.0.1:{(port := self._free_port())}/0"
        self._remember(url=url, server=str(program))  # where `url` looks for it
        self._conf.write_text(self._directives(port))
        ran = program.run(self._conf)
        assert ran.returncode == 0, f"it did not start: {ran.stdout}"
        until(lambda: self.url is not None, f"it answers at {url}; see {self._log}")
        return url

    def down(self) -> bool:
        """Stops it; whether it was up."""
        url = self.url
        if url is None:
            return False
        with connect(url) as c:
            c.shutdown(nosave=True)
        until(lambda: self.url is None, "it ends")
        return True

    def _program(self) -> Program:
        looked = search()
        if not looked.found:
            raise UnusableError("no Redis: " + "; ".join(looked.reasons))
        return looked.found[0]

    def _directives(self, port: int) -> str:
        """As a cache's are: nothing on the disk but its log. The paths may have spaces."""
        return (
            f'bind 127.0.0.1\nport {port}\ndaemonize yes\nsave ""\nappendonly no\n'
            f'dir "{self._home}"\nlogfile "{self._log}"\npidfile "{self._home / "pid"}"\n'
        )
