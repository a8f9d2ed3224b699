"""`sfm events tail`, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfm_grpc.client import Client
from tests.support.cli import SFM, Served
from tests.support.matrices import density


@pytest.fixture(scope="module")
def sfm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("sfm")) as served, Client(served.addresses["grpc"]) as client:
        client.namespace("n").commit({"rho": density()}, expected_version=0)
        client.namespace("m").memories.put("tea", {})
        yield served


def test_events_are_told_a_line_each(sfm: Served) -> None:
    head, *lines = sfm.run("events", "tail").stdout.splitlines()
    assert head.split() == ["Event", "Time", "Topic", "Namespace", "Version", "What"]
    assert [line.split()[4:7] for line in lines] == [["rho.status", "n", "1"], ["memory.event", "m", "1"]]
    assert '"psd_ok": true' in lines[0]


def test_scripts_get_a_document_each(sfm: Served) -> None:
    told = [json.loads(line) for line in sfm.run("events", "tail", "--json").stdout.splitlines()]
    assert [(e["topic"], e["payload"]["namespace"]) for e in told] == [("rho.status", "n"), ("memory.event", "m")]
    for options in (["--namespace", "m"], ["--topic", "memory.event"], ["--after", told[0]["event_id"]]):
        assert [json.loads(line) for line in sfm.run("events", "tail", "--json", *options).stdout.splitlines()] == told[1:]
    assert len(sfm.run("events", "tail", "--json", "--count", "1").stdout.splitlines()) == 1


def test_whoever_follows_sees_what_is_written_until_it_is_enough(sfm: Served, tmp_path: Path) -> None:
    command = [*SFM, "events", "tail", "--follow", "--json", "--namespace", "f", "--target", sfm.addresses["grpc"]]
    with (
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ
        ) as following,
        Client(sfm.addresses["grpc"]) as client,
    ):
        assert following.stdout is not None
        client.namespace("f").memories.put("k", {})
        assert json.loads(following.stdout.readline())["payload"]["changes"][0]["key"] == "k"
        following.send_signal(signal.SIGINT)
        _, said = following.communicate(timeout=30)
        assert (following.returncode, said) == (0, "")
