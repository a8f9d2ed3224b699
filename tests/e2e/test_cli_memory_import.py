"""`sfm memory import` and `export`, as a person types them, with what Python's own library says of itself."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfm_grpc.client import Client
from tests.support.bulk import line_of
from tests.support.cli import SFM, Served

MODULES = ("os", "os.path", "json", "re", "pathlib", "collections", "itertools", "functools", "statistics", "textwrap", "asyncio")


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every public object of some modules, and what is written about it."""
    for name in MODULES:
        for member, value in vars(importlib.import_module(name)).items():
            if not member.startswith("_") and (text := inspect.getdoc(value)):
                yield f"{name}/{member}", {"module": name, "kind": type(value).__name__, "doc": text}


@pytest.fixture(scope="module")
def sfm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("sfm")) as served:
        numbers = np.random.default_rng(7)
        lines = [
            line_of(
                key, told, memory_type=told["kind"], importance=len(told["doc"]) / 1000, vector=tuple(numbers.normal(size=16))
            )
            for key, told in documents()
        ]
        (served.directory / "docs.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        yield served


@pytest.fixture(autouse=True)
def _there(sfm: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sfm.directory)


@pytest.fixture(scope="module")
def client(sfm: Served) -> Iterator[Client]:
    with Client(sfm.addresses["grpc"], name="test") as connected:
        yield connected


def keys_of(path: Path) -> list[str]:
    return [json.loads(line)["key"] for line in path.read_text().splitlines()]


def test_what_is_imported_is_exported_and_imported_again(sfm: Served, client: Client) -> None:
    count = len(keys_of(Path("docs.jsonl")))
    assert count > 300
    assert sfm.run("memory", "import", "docs", "docs.jsonl").stdout == f"created  {count}\n"
    assert sfm.json("memory", "import", "docs", "docs.jsonl")["updated"] == count
    assert sfm.json("memory", "import", "docs", "docs.jsonl", "--create-only")["existing"] == count
    assert sfm.here("memory", "export", "docs", "-o", "out.jsonl").stdout == f"{count} memories in out.jsonl\n"
    assert keys_of(Path("out.jsonl")) == sorted(keys_of(Path("docs.jsonl")), key=str.encode)
    assert sfm.json("memory", "import", "copy", "out.jsonl")["created"] == count
    one, two = client.namespace("docs").memories, client.namespace("copy").memories
    for here, there in zip(one.list(with_vectors=True), two.list(with_vectors=True), strict=True):
        assert here.vector is not None
        assert there.vector is not None
        assert (here.key, here.payload_json, here.memory_type) == (there.key, there.payload_json, there.memory_type)
        assert here.importance == there.importance
        assert here.vector.tobytes() == there.vector.tobytes()
    assert sorted(p.name for p in Path().glob(".*out*")) == []


def test_stdin_and_stdout(sfm: Served) -> None:
    ran = subprocess.run(
        [*SFM, "memory", "import", "piped", "-"],
        input=line_of("a", 1) + b"\r\n\n" + line_of("b", 2, vector=(1.0, 2.0)),
        env={**os.environ, **sfm.environment},
        capture_output=True,
        check=True,
    )
    assert ran.stdout == b"created  2\n"
    assert [json.loads(line)["key"] for line in sfm.here("memory", "export", "piped").stdout.splitlines()] == ["a", "b"]
    only = sfm.here("memory", "export", "piped", "--prefix", "b", "--no-vectors", "-o", "-").stdout
    assert "vector" not in json.loads(only)
    assert sfm.here("memory", "export", "piped", "--type", "x", "-o", "none.jsonl").stdout == "0 memories in none.jsonl\n"
    assert Path("none.jsonl").read_bytes() == b""


def test_lines_that_are_refused_are_named_and_the_rest_is_there(sfm: Served, client: Client) -> None:
    bad = ["{", *(line_of(f"k{n}", vector=(0.0,)).decode() for n in range(120))]
    Path("bad.jsonl").write_text("\n".join([line_of("a", vector=(1.0,)).decode(), *bad, line_of("z").decode()]))
    ran = sfm.here("memory", "import", "bad", "bad.jsonl", code=1)
    told = ran.stderr.splitlines()
    assert told[0].startswith("bad.jsonl:2: is no JSON: ")
    assert told[1].startswith("bad.jsonl:3: k0: vector: has the length 0; under COSINE")
    assert (len(told), told[-1]) == (101, "bad.jsonl: … and 21 more lines were refused")
    assert ran.stdout.splitlines() == ["created  2", "refused  121"]
    assert [m.key for m in client.namespace("bad").memories.list()] == ["a", "z"]
    report = sfm.json("memory", "import", "bad", "bad.jsonl", "--validate-only", code=1)
    assert (report["validate_only"], report["updated"], report["failed"], report["errors"][1]["key"]) == (True, 2, 121, "k0")


def test_it_begins_where_it_is_told_to(sfm: Served, client: Client) -> None:
    Path("four.jsonl").write_bytes(b"\n".join(line_of(f"k{n}") for n in range(1, 5)) + b"\n{")
    ran = sfm.here("memory", "import", "later", "four.jsonl", "--from-line", "3", code=1)
    assert "four.jsonl:5: is no JSON" in ran.stderr
    assert [m.key for m in client.namespace("later").memories.list()] == ["k3", "k4"]
    ran = sfm.here("memory", "import", "later", "four.jsonl", "--validate-only", "--from-line", "4", code=1)
    assert ran.stdout.startswith("nothing was recorded; this is what would have been\n")


@pytest.mark.parametrize("name", ["absent.jsonl", "."])
def test_a_file_that_cannot_be_read(sfm: Served, name: str) -> None:
    assert f"{name} cannot be read: " in sfm.here("memory", "import", "n", name, code=2).stderr


def test_an_export_that_fails_leaves_what_was_there(sfm: Served) -> None:
    Path("kept.jsonl").write_text("old")
    assert "does not exist" in sfm.here("memory", "export", "nobody", "-o", "kept.jsonl", code=4).stderr
    assert Path("kept.jsonl").read_text() == "old"
    assert "cannot be written" in sfm.here("memory", "export", "docs", "-o", "no/where.jsonl", code=2).stderr


def test_progress_where_a_person_looks(sfm: Served) -> None:
    ours, theirs = pty.openpty()
    try:
        command = [*SFM, "memory", "import", "seen", "docs.jsonl"]
        subprocess.run(command, env={**os.environ, **sfm.environment}, stdout=subprocess.DEVNULL, stderr=theirs, check=True)
        assert re.search(rb"\r\d+ lines, \d+ a second", os.read(ours, 65_536))
    finally:
        os.close(theirs)
        os.close(ours)
    assert re.fullmatch(r"\d+ lines, \d+ a second\n", sfm.run("memory", "export", "seen", "-o", "x", "--progress").stderr)
    assert sfm.run("memory", "export", "seen", "-o", "x").stderr == ""


def test_an_import_that_is_stopped_says_how_it_goes_on(sfm: Served, client: Client) -> None:
    ran = subprocess.Popen(
        [*SFM, "memory", "import", "stopped", "-", "--create-only", "--from-line", "1"],
        env={**os.environ, **sfm.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert ran.stdin is not None
    ran.stdin.write(b"\n".join(line_of(f"k{n}", "x" * 9000) for n in range(1200)))
    ran.stdin.flush()
    there = client.namespace("stopped").memories
    deadline = time.monotonic() + 30
    while True:
        try:
            if there.describe().memories > 900:
                break
        except Exception:
            assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)
    ran.send_signal(signal.SIGINT)
    _, said = ran.communicate(timeout=30)
    assert ran.returncode not in (0, 1)
    assert b"Traceback" not in said
    place = re.search(r"up to line (\d+) it is done; this goes on:\n(.*)\n", said.decode())
    assert place is not None
    done = int(place[1])
    assert 200 < done < 1200
    assert shlex.split(place[2]) == [*["sfm", "memory", "import", "stopped", "-", "--create-only", "--from-line"], str(done + 1)]


def test_a_server_that_is_not_there(sfm: Served) -> None:
    ran = sfm.here("memory", "import", "n", "docs.jsonl", "--target", "127.0.0.1:1", code=3)
    assert "no answer from 127.0.0.1:1" in ran.stderr
    assert "sfm memory import n docs.jsonl --target 127.0.0.1:1 --from-line 1" in ran.stderr
