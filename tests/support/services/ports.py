"""Ports for servers that come and go."""

from __future__ import annotations

import contextlib
import random
import socket


def bound() -> socket.socket:
    """A socket on a free port of the loopback.

    Below the range from which the kernel takes ports for clients: one that keeps trying a dead server's port up there is sooner
    or later given that very port, and is then connected to itself. And nobody else's client takes it while the server is down.
    """
    while True:
        with contextlib.ExitStack() as stack:
            s = stack.enter_context(socket.socket())
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                s.bind(("127.0.0.1", random.randint(12_000, 32_000)))
                stack.pop_all()
                return s


def free() -> int:
    """A port that nobody listens on."""
    with bound() as s:
        return int(s.getsockname()[1])
