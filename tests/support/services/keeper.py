"""Keeps one server while its owner lives. Run as a script, by `kept.Kept`; its standard input and output are the owner's.

A test process may be killed at any moment, and a server that outlives it would stay for ever. The kernel's own means, a death
signal (PR_SET_PDEATHSIG) for the server, fires when the *thread* that started it ends, and says nothing to the server's
children. So there is one small process between the two: its standard input ends when the owner does, however that happens, and
as "subreaper" it inherits every process the server leaves behind, so that it knows when the last of them is gone. If it is
killed itself, the server is too, and what the server had started finds out by itself; where that stands still, a second process,
which is there as long as it does, kills it.

    keeper.py UID GID FAREWELL REMOVE COMMAND…     (UID of -1: as we are; REMOVE: a directory that goes with the owner, or "")

In: `one N` sends signal N to the server, `all N` to it and everything below it; each is answered with `done`.
Out: `pid N` first; `ended CODE` last, when the server and all it had started are gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_FAREWELL_S = 5.0
_libc = ctypes.CDLL(None)


def keep(uid: int, gid: int, farewell: int, remove: str, command: list[str]) -> None:
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    server = _start(uid, gid, command)
    _say(f"pid {server}")
    with open(os.pidfd_open(server)) as ended:
        owned = _obey_until(ended.fileno(), server)
        if not owned:
            _end(ended.fileno(), server, farewell)
        code = _reap(server)
    if owned:
        _say(f"ended {code}")
    elif remove:
        shutil.rmtree(remove, ignore_errors=True)


def _start(uid: int, gid: int, command: list[str]) -> int:
    me = os.getpid()
    server = os.fork()
    if server == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)  # both into the log
            if uid >= 0:
                os.setgroups([gid])
                os.setgid(gid)
                os.setuid(uid)
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python's own choice would be inherited
            _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)  # after setuid, which forgets it
            if os.getppid() == me:
                os.execv(command[0], command)
        except OSError as error:
            os.write(2, f"{command[0]}: {error}\n".encode())
        os._exit(127)
    return server


def _obey_until(ended: int, server: int) -> bool:
    """Does as told until the server ends (true) or the owner does (false)."""
    guarding = -1
    while ended not in select.select([0, ended], [], [])[0]:
        told = os.read(0, 100)  # one order at a time: the owner waits for its answer
        if not told:
            return False
        whom, number = told.split()
        found = [server] if whom == b"one" else _everything(server)
        _signal(found, int(number))
        guarding = _guarded(guarding, found if int(number) == signal.SIGSTOP else [])
        _say("done")
    return True


def _guarded(before: int, stopped: list[int]) -> int:
    """Has a process kill those that stand still if this one dies; one before it goes. Its pipe, or -1."""
    if before >= 0:
        os.write(before, b".")
        os.close(before)
    if not stopped:
        return -1
    over, guarding = os.pipe()
    if os.fork():
        os.close(over)
        return guarding
    for number in (0, 1, guarding):  # the owner's, which would not end with us
        os.close(number)
    known = [os.pidfd_open(pid) for pid in stopped if _stat(pid)[0] not in "ZX"]
    if not os.read(over, 1):
        for each in known:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(each, signal.SIGKILL)
    os._exit(0)


def _everything(server: int) -> list[int]:
    """The server and all below it. They stand still from here on: none is born behind our back, none sees another one go."""
    _signal([server], signal.SIGSTOP)
    found = [server, *_below(server)]
    _signal(found, signal.SIGSTOP)
    return found


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    if number == signal.SIGSTOP:
        _until_still(pids)


def _until_still(pids: list[int]) -> None:
    """A process in the middle of an fsync stops after it."""
    while any(_stat(pid)[0] not in "TtZX" for pid in pids):
        time.sleep(0.0005)


def _end(ended: int, server: int, farewell: int) -> None:
    """Politely first: a server that is asked to go takes its shared memory along."""
    _signal(_everything(server), signal.SIGCONT)
    _signal([server], farewell)
    if not select.select([ended], [], [], _FAREWELL_S)[0]:
        _signal(_everything(server), signal.SIGKILL)


def _reap(server: int) -> int:
    """Waits for the server's end and ends what it left behind; the server's exit code."""
    code = os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])
    while True:
        _signal(_below(os.getpid()), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return code


def _below(root: int) -> list[int]:
    """Every process that descends from this one."""
    parents = {pid: _stat(pid)[1] for pid in _pids()}
    found = [root]
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found[1:]


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _stat(pid: int) -> tuple[str, int]:
    """State and parent; of one that is gone, X and 0."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, parent = file.read().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return state, int(parent)


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the owner is gone; the end of our standard input says so too
        os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    keep(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:])
