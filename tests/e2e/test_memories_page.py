"""docs/MEMORIES.md is true: its Python and its commands run as they stand there, and say what it says they do."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Served

PAGE = (Path(__file__).parents[2] / "docs" / "MEMORIES.md").read_text()
TARGET = '"127.0.0.1:50051"'


def blocks(language: str) -> str:
    return "\n".join(re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("sfm")) as served:
        yield served


def test_what_it_shows_is_what_happens(served: Served) -> None:
    python = blocks("python")
    assert TARGET in python
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(python.replace(TARGET, repr(served.addresses["grpc"])), "docs/MEMORIES.md", "exec"), {})
    shown = re.findall(r"^ *print\(.*\)  # (.*)$", python, re.MULTILINE)
    assert said.getvalue().splitlines() == shown
    assert len(shown) == python.count("print(")

    environment = {name: value for name, value in os.environ.items() if not name.startswith("SFM_")}
    ran = subprocess.run(
        ["bash", "-euc", f'sfm() {{ "{sys.executable}" -m sfm_grpc.cli "$@"; }}\n{blocks("console")}'],
        cwd=served.directory,
        env=environment | served.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "agent-10 is deleted" in ran.stdout
    assert "coffee" in ran.stdout
