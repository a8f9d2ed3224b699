"""Servers that end with whoever started them, and the account they run as."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.services import keeper

WAIT_S = 60.0


@dataclass(frozen=True)
class Account:
    """Whom a server runs as."""

    name: str
    uid: int
    gid: int

    @property
    def spawning(self) -> dict[str, Any]:
        """What `subprocess` wants to hear."""
        return {} if self.uid < 0 else {"user": self.uid, "group": self.gid, "extra_groups": [self.gid]}

    def may(self, test: str, path: Path) -> bool:
        """Asks the kernel, as that account: `-x`, `-w`, …"""
        return subprocess.run(["/usr/bin/test", test, path], cwd="/", check=False, **self.spawning).returncode == 0

    def own(self, path: Path) -> None:
        """Gives it a file or a directory."""
        if self.uid >= 0:
            os.chown(path, self.uid, self.gid)


def unprivileged(*names: str) -> Account:
    """Ourselves; or, as root (whom Postgres refuses), the first of these accounts there is, else `nobody`."""
    if os.geteuid() != 0:
        return Account(pwd.getpwuid(os.geteuid()).pw_name, -1, -1)
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    found = next(known[name] for name in [*names, "nobody"] if name in known)
    return Account(found.pw_name, found.pw_uid, found.pw_gid)


class Kept:
    """A running server with all that it starts. It ends with this process, however this process ends.

    Beginning it returns as soon as the process exists; whether it serves is its owner's to find out.
    """

    def __init__(self, command: Sequence[object], *, account: Account, log: Path, farewell: signal.Signals, remove: Path) -> None:
        """`farewell` asks it to go; `remove` goes too when it ends because of us (not when it ends by itself)."""
        script = [sys.executable, "-I", "-S", keeper.__file__]
        told = [account.uid, account.gid, int(farewell), remove, *command]
        with log.open("ab") as err:
            self._keeper = subprocess.Popen(
                [*script, *map(str, told)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=err,
                bufsize=0,
                cwd=remove,
                start_new_session=True,  # the terminal's Ctrl-C is for the tests
            )
        self._name = f"{command[0]} ({self._keeper.pid})"
        self._order = threading.Lock()
        self._code: int | None = None
        self.pid = int(self._hear(WAIT_S).removeprefix("pid "))

    @property
    def running(self) -> bool:
        """Until it and everything it started are gone."""
        with self._order:
            if self._code is None and self._heard(0):
                self._note(self._hear(0))
            return self._code is None

    def send(self, number: signal.Signals) -> None:
        """To the server alone; nothing if it has ended."""
        self._tell(f"one {int(number)}")

    def send_all(self, number: signal.Signals) -> None:
        """To the server and everything it has started, at one moment; SIGSTOP returns when all stand still."""
        self._tell(f"all {int(number)}")

    def wait(self, timeout_s: float = WAIT_S) -> int:
        """Waits until it and everything it had started are gone; returns its exit code."""
        with self._order:
            if self._code is None:
                self._note(self._hear(timeout_s))
            assert self._code is not None
            return self._code

    def close(self) -> None:
        """The end: asked to go, killed if it does not, and its directory removed."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.wait(WAIT_S)
        self._keeper.stdout.close()

    def _tell(self, order: str) -> None:
        with self._order:
            if self._code is not None:
                return
            assert self._keeper.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._keeper.stdin.write(f"{order}\n".encode())
            answer = self._hear(WAIT_S)
            if answer != "done":
                self._note(answer)

    def _note(self, answer: str) -> None:
        assert answer.startswith("ended "), f"the keeper said {answer!r}"
        self._code = int(answer.removeprefix("ended "))
        self.close()

    def _heard(self, timeout_s: float) -> bool:
        assert self._keeper.stdout is not None
        return bool(select.select([self._keeper.stdout.fileno()], [], [], timeout_s)[0])

    def _hear(self, timeout_s: float) -> str:
        assert self._keeper.stdout is not None
        if not self._heard(timeout_s):
            raise TimeoutError(f"{self._name} goes on after {timeout_s:g} s")
        return self._keeper.stdout.readline().decode().rstrip()
