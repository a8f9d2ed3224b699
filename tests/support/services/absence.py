"""What happens where a service is not there: the test is skipped with every reason, or fails where the service is required."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

import pytest

REQUIRED = "SFM_TEST_REQUIRE_SERVICES"


class AbsentError(Exception):
    """A service, or what a test asks of it, is not to be had here."""

    def __init__(self, service: str, reasons: Sequence[str]) -> None:
        super().__init__(f"{service}: " + "; ".join(reasons))
        self.service = service
        self.reasons = list(reasons)


def required(service: str) -> bool:
    """`SFM_TEST_REQUIRE_SERVICES=postgres,redis`: what must be there."""
    return service in {name.strip() for name in os.environ.get(REQUIRED, "").split(",")}


def skip_or_fail(absent: AbsentError) -> NoReturn:
    """Ends the test."""
    if required(absent.service):
        pytest.fail(f"{REQUIRED} names it, and it is not there — {absent}", pytrace=False)
    pytest.skip(str(absent))
