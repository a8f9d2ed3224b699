"""To make a call again until it is answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sfm_grpc.client import DeadlineExceeded, Draining, Overloaded, StoreUnavailable, Unreachable

# The same call may succeed a little later. Of a commit they leave unknown whether it happened.
_PASSING = (Unreachable, StoreUnavailable, Draining, DeadlineExceeded, Overloaded)
_PATIENCE_S = 120.0
_PAUSE_S = 0.1

T = TypeVar("T")


def patiently(call: Callable[[], T], unanswered: Callable[[], None]) -> T:
    """Makes the call again until it is answered, for two minutes: a server that restarts is back in a second or two."""
    patience_ends = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return call()
        except _PASSING as error:
            unanswered()
            if time.monotonic() > patience_ends:
                raise
            # What the server asks for, if it could.
            time.sleep(error.retry_delay_s or _PAUSE_S)
