"""Fixtures of the fault tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.servers import FailingServer

MakeServer = Callable[..., FailingServer]


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[MakeServer]:
    """Makes servers, not yet begun, that end with the test. None of them may have met what it did not foresee."""
    made: list[FailingServer] = []

    def make(**settings: object) -> FailingServer:
        made.append(FailingServer(tmp_path / f"failing-{len(made)}.log", **{"rho_history_versions": 1_000_000} | settings))
        return made[-1]

    yield make
    for server in made:
        server.close()
    assert [complaint for server in made if not server.may_complain for complaint in server.complaints] == []
