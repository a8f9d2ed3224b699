"""Failpoints do what they say, and are in no release."""

from __future__ import annotations

import functools
import importlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import grpc
import pytest

from sfm_grpc.client import Client
from sfm_grpc.errors import DeadlineExceeded, Unreachable
from sfm_grpc.settings import Settings
from tests.faults.conftest import MakeServer
from tests.support import cli, failpoints
from tests.support.drivers import Put
from tests.support.failpoints import SEAMS, VARIABLE, Failpoint, parse, points
from tests.support.matrices import density
from tests.support.messages import commit_of
from tests.support.paths import ROOT
from tests.support.processes import rho_stub
from tests.support.refusals import refused
from tests.support.servers import store_of


def test_the_product_refuses_to_start_with_failpoints() -> None:
    told = cli.here("serve", env={VARIABLE: "commit.told=kill"}, code=2)
    assert f"{VARIABLE} is not a setting" in told.stderr


def test_the_product_knows_no_failpoint() -> None:
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.sql")]:
        text = path.read_text()
        assert "failpoint" not in text.lower(), path
        assert not [point for point in points() if point in text], path


def test_a_release_has_none_of_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        assert {name.split("/")[0].partition("-")[0] for name in names} == {"sfm_grpc", "sfm"}
        assert [name for name in names if b"failpoint" in packed.read(name).lower()] == []


def test_items_say_what_happens_where_and_when() -> None:
    text = "postgres.commit.sent=kill@7; commit.told=wait:/tmp/a b;commit.made=sleep:0.5~0.25; commit.called=error:no: none@2"
    assert parse(text) == [
        Failpoint("postgres.commit.sent", "kill", at=7),
        Failpoint("commit.told", "wait", "/tmp/a b"),
        Failpoint("commit.made", "sleep", "0.5", odds=0.25),
        Failpoint("commit.called", "error", "no: none", at=2),
    ]
    assert parse("postgres.housekeeping.delete_bodies=kill")[0].point == "postgres.housekeeping.delete_bodies"
    assert parse("") == []


@pytest.mark.parametrize("text", ["commit.told", "commit.told=explode", "commit.tolt=kill", "postgres.commit.delete_all=kill"])
def test_what_is_no_failpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=VARIABLE):
        parse(text)


def test_the_seams_are_where_they_are_looked_for() -> None:
    for seam in SEAMS:
        owner = importlib.import_module(seam.module)
        assert callable(functools.reduce(getattr, seam.name.split("."), owner)), seam


async def test_a_failpoint_is_reached_as_often_as_it_says(tmp_path: Path) -> None:
    [third] = parse("commit.told=error:enough@3")
    await third.reached()
    await third.reached()
    with pytest.raises(RuntimeError, match=r"commit\.told: enough"):
        await third.reached()
    await third.reached()
    [never] = parse("commit.told=error:x~0.0")
    never.reached_in_thread()
    [pause] = parse("commit.told=sleep:0.05")
    began_s = time.monotonic()
    await pause.reached()
    pause.reached_in_thread()
    assert time.monotonic() - began_s >= 0.1


def test_the_command_line_serves_with_failpoints(tmp_path: Path) -> None:
    ready, log = tmp_path / "ready", tmp_path / "log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SFM_")}
    places = ("--listen", "127.0.0.1:0", "--http-listen", "", "--data-dir", tmp_path / "data", "--ready-file", ready)
    with log.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.failpoints", "serve", *places],
            cwd=ROOT,
            env=environment | {VARIABLE: "commit.answered=kill@2"},
            stdout=said,
            stderr=said,
        )
    try:
        until_s = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until_s
            time.sleep(0.02)
        target = ready.read_text().split('"grpc": "')[1].split('"')[0]
        with Client(target, timeout_s=1) as client:
            namespace = client.namespace("n")
            assert namespace.commit({"rho": density()}, expected_version=0).version == 1
            with pytest.raises((Unreachable, DeadlineExceeded)):
                namespace.commit({"rho": density()}, expected_version=1)
        assert process.wait(30) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()


async def test_an_error_that_nobody_expected_after_the_commit_point_leaves_a_commit_to_be_asked_for_again(
    failing: MakeServer, settings: Settings
) -> None:
    """The caller is told nothing but an id; the same request answers what has happened."""
    server = failing(**store_of(settings))
    server.may_complain = True
    await server.begin("commit.told=error:surprise@1")
    async with server.channel() as channel:
        request = commit_of(Put("rho", density()), request_id="r")
        told = await refused(rho_stub(channel).CommitRho(request, timeout=20))
        assert (told.code, told.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert "surprise" not in told.message
        done = await rho_stub(channel).CommitRho(request, timeout=20)
        assert (done.version, done.replayed) == (1, True)
    assert "surprise" in server.log


def test_nothing_is_wrapped_that_is_not_named() -> None:
    before = [getattr(importlib.import_module(seam.module), seam.name, None) for seam in SEAMS]
    failpoints.install("")
    assert [getattr(importlib.import_module(seam.module), seam.name, None) for seam in SEAMS] == before
