"""`sfm rho watch`, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfm_grpc.client import Client
from tests.support.cli import SFM, Served
from tests.support.matrices import density


@pytest.fixture(scope="module")
def sfm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("sfm"), SFM_RHO_HISTORY_VERSIONS="3") as served:
        yield served


@pytest.fixture(scope="module")
def client(sfm: Served) -> Iterator[Client]:
    with Client(sfm.addresses["grpc"], name="test") as connected:
        yield connected


def committed(client: Client, namespace: str, count: int = 3) -> str:
    for version in range(count):
        client.namespace(namespace).commit(
            {"rho": density(seed=version)}, expected_version=version, metadata={"step": str(version + 1)}
        )
    return namespace


def test_what_was_committed_is_told_a_line_each_and_then_it_ends(sfm: Served, client: Client) -> None:
    ns = committed(client, "told")
    lines = sfm.run("rho", "watch", ns, "--after", "1", "--count", "2").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["Version", "2", "3"]
    assert [line.split()[-1] for line in lines[1:]] == ["step=2", "step=3"]
    assert "test" in lines[1].split()
    listed = sfm.here("rho", "log", ns, "--limit", "1").stdout.splitlines()
    assert [line.split() for line in listed[:2]] == [lines[0].split(), lines[2].split()]


def test_json_is_a_document_a_line(sfm: Served, client: Client) -> None:
    ns = committed(client, "documents")
    told = [json.loads(line) for line in sfm.run("rho", "watch", ns, "--after=0", "--count=3", "--json").stdout.splitlines()]
    assert [t["version"] for t in told] == [1, 2, 3]
    listed = sfm.json("rho", "log", ns)["versions"]
    assert told == listed[::-1]


def test_by_default_it_begins_with_the_newest(sfm: Served, client: Client) -> None:
    ns = committed(client, "newest")
    for options in ((), ("--newest-only",), ("--newest-only", "--after", "0")):
        ran = sfm.run("rho", "watch", ns, *options, "--count", "1", "--json")
        assert json.loads(ran.stdout)["version"] == 3


def test_it_tells_what_is_committed_meanwhile_and_ends_cleanly_on_ctrl_c(sfm: Served, client: Client) -> None:
    command = [*SFM, "rho", "watch", "later", "--after", "0", "--json"]
    environment = {**os.environ, **sfm.environment}
    with subprocess.Popen(
        command, cwd=sfm.directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        committed(client, "later", 2)
        told = [json.loads(watching.stdout.readline())["version"] for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        out, err = watching.communicate(timeout=30)
    assert told == [1, 2]
    assert (watching.returncode, out, err) == (0, "", "")


def test_what_is_no_longer_kept_is_said(sfm: Served, client: Client) -> None:
    ns = committed(client, "gone", 12)
    while [v.version for v in client.namespace(ns).versions()][-1] < 10:
        time.sleep(0.05)
    ran = sfm.here("rho", "watch", ns, "--after", "1", code=4)
    assert "version 2 of 'gone' is no longer kept: the oldest is 10, the newest 12" in ran.stderr


def test_a_server_that_is_not_there_is_said(tmp_path: Path, sfm: Served) -> None:
    assert "is it running" in sfm.here("rho", "watch", "n", "--target", "127.0.0.1:1", code=3).stderr
