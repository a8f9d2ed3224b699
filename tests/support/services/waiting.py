"""Waiting for what a service does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.services.kept import WAIT_S

_STEP_S = 0.02


def until(true: Callable[[], bool], hope: str, timeout_s: float = WAIT_S) -> None:
    """Returns when it is so; AssertionError, with the hope, if that takes too long."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, f"not within {timeout_s:g} s: {hope}"
        time.sleep(_STEP_S)
