"""`sfm namespace delete`, `sfm memory stats`, `link`, `unlink` and `links`, `sfm index`, as a person types them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest

from sfm_grpc.client import Client, MemoryPut, NotFound
from tests.support.cli import SFM, Served, here


@pytest.fixture(scope="module")
def sfm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    # Tests share a few cores: to be late is no reason to be refused here.
    with Served(tmp_path_factory.mktemp("sfm")) as served:
        yield served


@pytest.fixture(scope="module")
def client(sfm: Served) -> Iterator[Client]:
    with Client(sfm.addresses["grpc"], name="test") as connected:
        yield connected


# ---- namespace delete


def test_a_namespace_is_deleted_by_its_name_said_twice(sfm: Served, client: Client) -> None:
    client.namespace("gone").memories.put_many([MemoryPut(key, 0) for key in "ab"])
    client.namespace("gone").commit({"rho": np.eye(2) / 2}, expected_version=0)
    told = "this deletes 2 memories of 'gone' for good, and 1 matrix by a commit"
    assert f"{told}: to have it so, say --confirm gone" in sfm.run("namespace", "delete", "gone", code=4).stderr
    said = sfm.here("namespace", "delete", "gone", "--confirm", "goner", code=4).stderr
    assert "--confirm 'goner' is not its name, and nothing was deleted" in said
    assert told in said
    delete = ("namespace", "delete", "gone", "--confirm", "gone")
    assert "are at revision 2, not 1" in sfm.here(*delete, "--if-revision", "1", code=4).stderr
    assert sfm.here(*delete, "--if-revision", "2").stdout == "gone is deleted (revision 3, version 2)\n"
    assert "does not exist" in sfm.here(*delete, code=4).stderr
    client.namespace("gone").memories.put("a", 0)
    done = sfm.json(*delete)
    assert (done["namespace"], done["revision"], done["version"], done["replayed"]) == ("gone", 5, 0, False)


def test_a_deletion_is_repeated_to_learn_whether_it_happened(sfm: Served, client: Client) -> None:
    memories = client.namespace("twice").memories
    memories.put("a", 0)
    delete = ("namespace", "delete", "twice", "--confirm", "twice", "--request-id", "r")
    assert sfm.here(*delete).stdout == "twice is deleted (revision 2)\n"
    memories.put("a", 0)
    assert sfm.here(*delete).stdout == (
        "twice is deleted (revision 2)\nthis was done before, by this request; this is the first answer again\n"
    )
    assert sfm.json(*delete)["replayed"] is True
    assert memories.get("a").payload == 0
    assert "'r' was used" in sfm.here(*delete, "--if-revision", "3", code=4).stderr
    gone = {"SFM_TARGET": "127.0.0.1:1"}
    said = here("namespace", "delete", "n", "--confirm", "n", "--timeout", "0.5", code=3, env=gone).stderr
    assert "to learn whether it was deleted, repeat it with --request-id " in said


def test_on_a_terminal_its_name_is_asked_for(sfm: Served, client: Client) -> None:
    memories = client.namespace("asked").memories
    memories.put("a", 1)
    ran = typed(sfm, "ask", "namespace", "delete", "asked")
    assert (ran.returncode, b"that is not its name; nothing was deleted" in ran.stderr) == (4, True)
    assert b"this deletes 1 memory of 'asked' for good" in ran.stderr
    assert memories.get("a").payload == 1
    ran = typed(sfm, "asked", "namespace", "delete", "asked")
    assert (ran.returncode, ran.stdout.strip()) == (0, b"asked is deleted (revision 2)")
    with pytest.raises(NotFound):
        memories.describe()


def typed(sfm: Served, answer: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Runs a command on a terminal of its own and types the answer."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, **sfm.environment}
    try:
        os.write(ours, f"{answer}\n".encode())
        return subprocess.run([*SFM, *arguments], stdin=theirs, capture_output=True, env=environment, timeout=60, check=False)
    finally:
        os.close(theirs)
        os.close(ours)


# ---- memory stats, link, unlink, links


def test_each_type_is_counted(sfm: Served, client: Client) -> None:
    memories = client.namespace("counted").memories
    memories.put("a", {"x": 1}, memory_type="seen", importance=1.0, vector=[1, 2])
    memories.put("b", {"x": 22}, memory_type="seen", importance=3.0, ttl_s=600)
    memories.put("c", {}, memory_type="said")
    said, seen = sfm.json("memory", "stats", "counted")["types"]
    assert (said["memory_type"], said["memories"], seen["memory_type"], seen["memories"]) == ("said", 1, "seen", 2)
    assert (seen["vectors"], seen["payload_bytes"], seen["expiring"], seen["importance_mean"]) == (1, 15, 1, 2.0)
    assert [t["memories"] for t in sfm.json("memory", "stats", "counted", "--min-importance", "2")["types"]] == [1]
    lines = sfm.here("memory", "stats", "counted", "--type", "seen").stdout.splitlines()
    assert lines[1].split()[:11] == ["seen", "2", "1", "15", "bytes", "1", "1", "to", "3,", "mean", "2"]
    assert "does not exist" in sfm.here("memory", "stats", "nowhere", code=4).stderr


def test_links(sfm: Served, client: Client) -> None:
    client.namespace("linked").memories.put_many([MemoryPut(key, 0) for key in ("tea", "milk", "cup")])
    said = sfm.here("memory", "link", "linked", "tea", "goes-with", "milk", "--weight", "0.5").stdout
    assert said == "tea is linked to milk: goes-with, 0.5\n"
    assert sfm.json("memory", "link", "linked", "tea", "is-in", "cup")["weight"] == 1.0
    assert "'x'" in sfm.here("memory", "link", "linked", "tea", "is-in", "x", code=4).stderr
    links = sfm.json("memory", "links", "linked", "tea")["links"]
    assert [(each["source"], each["link_type"], each["target"], each["weight"]) for each in links] == [
        ("tea", "goes-with", "milk", 0.5),
        ("tea", "is-in", "cup", 1.0),
    ]
    lines = sfm.here("memory", "links", "linked", "cup", "--incoming").stdout.splitlines()
    assert [line.split()[:4] for line in lines] == [["Source", "Type", "Target", "Weight"], ["tea", "is-in", "cup", "1"]]
    assert len(sfm.json("memory", "links", "linked", "tea", "--type", "is-in")["links"]) == 1
    assert sfm.here("memory", "links", "linked", "tea", "--limit", "1").stdout.endswith("… and more; --limit 0 lists all\n")
    unlink = ("memory", "unlink", "linked", "tea", "is-in", "cup")
    assert sfm.here(*unlink).stdout == "the link is deleted\n"
    assert sfm.here(*unlink).stdout == "there was no such link\n"
    assert sfm.json(*unlink)["deleted"] == 0
    assert "not found" in sfm.here("memory", "links", "linked", "x", code=4).stderr


# ---- index, and what describe says of it


def test_an_index_is_verified_and_repaired(sfm: Served, client: Client) -> None:
    client.create_namespace("indexed", 2, "euclidean")
    puts = [MemoryPut(f"k{n}", 0, vector=[1, n]) for n in range(3)]
    client.namespace("indexed").memories.put_many([*puts, MemoryPut("long", 0, vector=[3e38, 3e38])], wait_indexed_s=20)
    told = sfm.json("namespace", "describe", "indexed")
    assert (told["indexed_revision"], [(r["key"], r["revision"]) for r in told["refused"]]) == (4, [("long", 4)])
    assert "refused    long, revision 4: " in sfm.here("namespace", "describe", "indexed").stdout
    ran = sfm.here("index", "verify", "indexed")
    assert (ran.stdout.splitlines()[0], ran.stderr) == ("index     has what it should have", "")
    for command in (("verify",), ("repair",), ("repair", "--rebuild")):
        found = sfm.json("index", command[0], "indexed", *command[1:])
        assert (found["ok"], found["memories"], found["points"], found["refused"]) == (True, 4, 3, 1)
    assert "does not exist" in sfm.here("index", "verify", "nowhere", code=4).stderr


def test_what_is_wrong_has_an_exit_code_of_its_own(monkeypatch: pytest.MonkeyPatch, sfm: Served, client: Client) -> None:
    from sfm_grpc.client import IndexReport, Memories

    client.namespace("wrong").memories.put("a", 0)
    keys = tuple(f"k{n}" for n in range(12))
    report = IndexReport(7, 5, 6, b"a" * 8, b"b" * 8, 2, 3, 0, 0, keys, 1)
    monkeypatch.setattr(Memories, "verify_index", lambda *_, **__: report)
    shown = sfm.here("index", "verify", "wrong", code=1).stdout
    assert "WRONG: 2 missing, 3 orphaned" in shown
    assert "k9, …" in shown
    found = json.loads(sfm.here("index", "verify", "wrong", "--json", code=1).stdout)
    assert (found["ok"], found["orphaned"], found["points_hash"]) == (False, 3, "62" * 8)


def test_progress_is_shown_to_a_terminal(sfm: Served, client: Client) -> None:
    client.namespace("watched").memories.put("a", 0, vector=[1, 2])
    ours, theirs = pty.openpty()
    environment = {**os.environ, **sfm.environment, "TERM": "xterm"}
    with subprocess.Popen(
        [*SFM, "index", "repair", "watched", "--rebuild", "--json"], stdout=subprocess.PIPE, stderr=theirs, env=environment
    ) as ran:
        os.close(theirs)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:
            pass  # how Linux says that nobody has the other end any more
        os.close(ours)
        assert ran.stdout is not None
        assert json.loads(ran.stdout.read())["ok"] is True
    assert ran.returncode == 0
    assert b"counting" in shown or b"comparing" in shown or b"feeding" in shown
