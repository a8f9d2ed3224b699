"""Where services of the tests put their files: where their account may go, and rather in memory than on a disk."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import tempfile
from pathlib import Path

from tests.support.services.kept import Account

MEMORY = Path("/dev/shm")
_MEMORY_FREE_BYTES_MIN = 4 << 30  # one cluster takes about a quarter of a gigabyte
_PREFIX = "sfm-test-"
_LOCK = "in-use"
_locks: dict[Path, int] = {}


def temporary(account: Account, name: str, *, inside: Path | None = None, run_from: bool = False) -> Path:
    """A new directory of that account's own, to be given to `remove`; its path is short, as a socket's must be.

    A database of one's own for each test costs files, created, synced and removed by the hundred: in memory that is 20 ms, on a
    disk up to twenty times that. Memory outlives a process that is killed, which is all that our tests do to one. Programs
    (`run_from`) lie on the disk, for memory may forbid to run them. A `TMPDIR` that is set is obeyed.
    """
    parent = inside or (_on_disk(account) if run_from or not _in_memory(account) else MEMORY)
    _sweep(parent)
    made = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-", dir=parent))
    _locks[made] = _locked(made / "new")
    (made / "new").rename(made / _LOCK)
    account.own(made)
    return made


def remove(made: Path) -> None:
    """It and all that is in it; also if it is gone already."""
    shutil.rmtree(made, ignore_errors=True)
    if (lock := _locks.pop(made, None)) is not None:
        os.close(lock)


@functools.cache
def _sweep(parent: Path) -> None:
    """Removes, once in a process, what killed ones have left: their locks went with them."""
    for left in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # it is somebody else's, or in use, or just being removed
            lock = _locked(left / _LOCK, create=False)
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _locked(path: Path, *, create: bool = True) -> int:
    """A descriptor that holds the lock of a file; OSError if another process does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def memory_is_plenty() -> bool:
    """Whether files may lie in memory: there is room, programs may be run from it, and nobody has named another place."""
    if "TMPDIR" in os.environ or not MEMORY.is_dir() or os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return False
    told = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    available = int(told[1]) << 10 if told else 0
    return min(available, shutil.disk_usage(MEMORY).free) >= _MEMORY_FREE_BYTES_MIN


def _in_memory(account: Account) -> bool:
    return memory_is_plenty() and account.may("-w", MEMORY)


def _on_disk(account: Account) -> Path:
    usual = Path(tempfile.gettempdir())
    fits = len(str(usual)) < 40 and account.may("-x", usual)
    return usual if fits else Path("/tmp")
