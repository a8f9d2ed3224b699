"""Servers that are killed while they are needed, one at a time, each in its turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from examples.cognitive_manager.manager_process import ManagerProcess
from examples.cognitive_manager.server_process import ServerProcess

# Of the commits that are heard of after a kill, a manager's first may have been answered before it.
_GOES_ON = 2


class Outages:
    """Makes outages, and sees to it that no other happens.

    The time to the next one runs once every manager has committed again: they shall be interrupted, not starved. Where there are
    other servers, the one that was killed stays away until every manager has gone on without it.
    """

    def __init__(
        self,
        servers: Sequence[ServerProcess],
        managers: Sequence[ManagerProcess],
        every_s: float | None,
        say: Callable[[str], None],
    ) -> None:
        """`every_s`: None kills nobody. `say` hears of each that is over."""
        self.kills = 0
        self._servers = servers
        self._managers = managers
        self._every_s = every_s
        self._say = say
        self._down: ServerProcess | None = None
        self._next_kill: float | None = None
        self._counts = [0 for _ in managers]

    def look(self) -> None:
        """To be called often: kills and starts again when it is time to. Raises ServerFailedError when one ended by itself."""
        for server in self._servers:
            if server is not self._down and not server.alive:
                raise server.failure("ended by itself")
        if self._down:
            if self._all_committed(_GOES_ON):
                self._mend(", every manager went on without it, and it")
        elif self._every_s is None or not self._servers:
            return
        elif self._next_kill is None:
            if self._all_committed(1):
                self._next_kill = time.monotonic() + self._every_s
        elif time.monotonic() >= self._next_kill:
            self._kill()

    def end(self) -> None:
        """Leaves every server running. Raises ServerFailedError."""
        if self._down:
            self._mend(" and")

    def _kill(self) -> None:
        self._down = self._servers[self.kills % len(self._servers)]
        self._down.kill()
        self.kills += 1
        self._counts = self._committed()
        if len(self._servers) == 1:
            self._mend(" and")

    def _mend(self, how: str) -> None:
        assert self._down
        self._down.launch()
        self._down.wait_ready()
        self._say(f"{self._down.name} was killed{how} is back ({self.kills})")
        self._down, self._next_kill, self._counts = None, None, self._committed()

    def _committed(self) -> list[int]:
        return [len(m.acknowledged) for m in self._managers]

    def _all_committed(self, times: int) -> bool:
        """Every manager that has not ended has, so often since the last kill or its end."""
        return all(
            now >= then + times or not m.running
            for m, now, then in zip(self._managers, self._committed(), self._counts, strict=True)
        )
