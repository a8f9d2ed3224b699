"""A short round of `make faults`: three servers, their Postgres and their Redis; and that it can find something."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.histories import KINDS
from tests.support.paths import ROOT

pytestmark = pytest.mark.timeout(600)


def long(*arguments: str, code: int) -> dict[str, Any]:
    """Runs it to its end; what its last line says."""
    command = [sys.executable, "-m", "tests.faults.long", *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert ran.returncode == code, ran.stdout + ran.stderr
    told: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return told


def test_a_short_round_loses_nothing_and_reads_nothing_stale() -> None:
    told = long("--kills", "6", "--round-kills", "6", "--reads", "200", "--minutes", "4", "--seed", "3", code=0)
    assert {kind: told[kind] for kind in KINDS} == dict.fromkeys(KINDS, 0)
    assert told["kills"] >= 6
    assert told["reads_checked"] > 200
    assert told["unforeseen"] == 0


def test_what_is_told_without_being_fenced_is_found() -> None:
    told = long("--without", "fence_before_telling", "--kills", "8", "--round-kills", "2", "--minutes", "3", code=1)
    assert told["stale"] > 0
    assert told["lost"] == told["doubled"] == 0
