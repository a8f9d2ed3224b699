"""`sfm rho …` on a server that is as it should be."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sfm_grpc.client import Client, Factor, distances
from sfm_grpc.density.envelope import deserialize_matrix, serialize_matrix, serialize_matrix_json
from sfm_grpc.model import Layout
from tests.support.cli import SFM, Served
from tests.support.matrices import density, sketch, with_eigenvalue

RHO, NEXT, SKETCH = density(seed=1), density(seed=2), sketch()


@pytest.fixture(scope="module")
def sfm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("sfm")) as served:
        for name, array in {"rho": RHO, "next": NEXT, "sketch": SKETCH, "negative": with_eigenvalue(-0.1)}.items():
            np.save(served.directory / f"{name}.npy", array)
        yield served


@pytest.fixture(autouse=True)
def _there(sfm: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sfm.directory)


@pytest.fixture(scope="module")
def client(sfm: Served) -> Iterator[Client]:
    with Client(sfm.addresses["grpc"], name="test") as connected:
        yield connected


def committed(client: Client, namespace: str) -> str:
    """A namespace of three versions: ρ and a sketch, another ρ, then a factor instead of the sketch."""
    ns = client.namespace(namespace)
    ns.commit({"rho": RHO, "sketch": SKETCH}, expected_version=0, metadata={"why": "first"})
    ns.commit({"rho": NEXT}, expected_version=1)
    ns.commit({"factor": Factor(SKETCH), "sketch": None}, expected_version=2)
    return namespace


# ---- commit


def test_commit_puts_and_deletes_what_is_told(sfm: Served, client: Client) -> None:
    facts = ("--expected-version", "0", "--meta", "why=a = b", "--meta", "n=1")
    said = sfm.run("rho", "commit", "told", "rho=rho.npy", "s=sketch.npy", *facts).stdout
    assert said.startswith("told is at version 1\n")
    found = sfm.json("rho", "commit", "told", "f=sketch.npy", "--factor", "f", "--delete", "s", "--expected-version", "current")
    assert (found["version"], found["replayed"], found["validate_only"]) == (2, False, False)
    assert found["receipts"]["s"]["deleted"] is True
    assert found["receipts"]["f"]["certificate"]["layout"] == "factor"
    newest, first = client.namespace("told").versions()
    assert dict(first.metadata) == {"why": "a = b", "n": "1"}
    held = client.namespace("told").read()
    assert set(held) == {"rho", "f"}
    assert held["rho"].tobytes() == RHO.tobytes()
    assert "@" in newest.committer


def test_commit_reads_every_kind_of_file(sfm: Served, client: Client) -> None:
    np.savez("all.npz", rho=RHO, other=NEXT)
    Path("f.sfm").write_bytes(serialize_matrix(SKETCH, layout=Layout.FACTOR, compression="zlib"))
    Path("j.json").write_text(serialize_matrix_json(NEXT.astype("<f4")))
    Path("old.json").write_text("[[0.5, 0.0], [0.0, 0.5]]")
    files = ("rho=all.npz", "f=f.sfm", "j=j.json", "old=old.json")
    found = sfm.json("rho", "commit", "files", *files, "--kind", "old=density", "--expected-version", "0")
    certificates = {key: receipt["certificate"] for key, receipt in found["receipts"].items()}
    assert [(c["kind"], c["layout"], c["dtype"]) for c in certificates.values()] == [
        ("density", "dense", "float64"),
        ("density", "factor", "float64"),
        ("generic", "dense", "float32"),
        ("density", "dense", "float64"),
    ]
    assert client.namespace("files").read()["f"].tobytes() == SKETCH.tobytes()


def test_commit_that_is_refused_says_why_and_changes_nothing(sfm: Served, client: Client) -> None:
    committed(client, "refused")
    said = sfm.here("rho", "commit", "refused", "rho=rho.npy", "--expected-version", "1", code=4).stderr
    assert "'refused' is at version 3 (committed by 'test'" in said
    assert len(said.splitlines()) == 1
    said = sfm.here("rho", "commit", "refused", "rho=negative.npy", "--expected-version", "3", code=4).stderr
    assert "λ_min = -0.1" in said
    step = ("--max-step", "1e-6", "--expected-version", "3")
    assert "max_step" in sfm.here("rho", "commit", "refused", "rho=rho.npy", *step, code=4).stderr
    assert client.namespace("refused").describe().version == 3


def test_commit_can_be_validated_and_repeated(sfm: Served, client: Client) -> None:
    first = ("rho", "commit", "again", "rho=rho.npy", "--expected-version", "0")
    assert "nothing was recorded" in sfm.here(*first, "--validate-only").stdout
    sfm.here("rho", "log", "again", code=4)
    assert sfm.json(*first, "--request-id", "r")["replayed"] is False
    assert "first answer again" in sfm.here(*first, "--request-id", "r").stdout
    assert client.namespace("again").describe().version == 1


BAD_COMMITS = {
    "nothing": ((), "nothing to commit"),
    "no file": (("rho",), "KEY=FILE"),
    "missing": (("rho=missing.npy",), "missing.npy cannot be read"),
    "twice": (("a=rho.npy", "a=next.npy"), "named twice"),
    "put and deleted": (("a=rho.npy", "--delete", "a"), "named twice"),
    "integers": (("a=integers.npy",), "float64"),
    "objects": (("a=objects.npy",), "not a file of numbers"),
    "text": (("a=text",), "not an envelope"),
    "truncated": (("a=truncated.npy",), "truncated.npy"),
    "other name": (("a=all.npz",), "no 'a'"),
    "kind": (("a=rho.npy", "--kind", "a=densitty"), "neither"),
    "factor of nothing": (("a=rho.npy", "--factor", "b"), "--factor b"),
    "meta": (("a=rho.npy", "--meta", "why"), "KEY=VALUE"),
}


@pytest.mark.parametrize("name", BAD_COMMITS)
def test_commit_of_what_is_no_matrix_is_never_sent(sfm: Served, name: str) -> None:
    np.save("integers.npy", np.eye(2, dtype=int))
    np.save("objects.npy", np.array([[{}]]), allow_pickle=True)
    Path("text").write_text("hello")
    Path("truncated.npy").write_bytes(Path("rho.npy").read_bytes()[:-9])
    np.savez("all.npz", rho=RHO, other=NEXT)
    arguments, sentence = BAD_COMMITS[name]
    ran = sfm.here("rho", "commit", "bad", *arguments, "--expected-version", "0", "--target", "127.0.0.1:1", code=2)
    assert sentence in ran.stderr


# ---- get


def test_get_brings_the_same_bits_in_every_form(sfm: Served, client: Client) -> None:
    ns = committed(client, "forms")
    there = sfm.directory
    assert "version 3" in sfm.run("rho", "get", ns, "-o", "got.npy").stdout
    assert np.load(there / "got.npy").tobytes() == NEXT.tobytes()
    sfm.here("rho", "get", ns, "rho", "--version", "1", "-o", there / "got.sfm")
    assert deserialize_matrix((there / "got.sfm").read_bytes()).tobytes() == RHO.tobytes()
    sfm.here("rho", "get", ns, "factor", "-o", there / "got.json")
    assert deserialize_matrix((there / "got.json").read_text()).tobytes() == SKETCH.tobytes()
    found = sfm.json("rho", "get", ns, "-o", there / "got.npz")
    assert set(found["matrices"]) == {"factor", "rho"}
    with np.load(there / "got.npz") as archive:
        assert {key: archive[key].tobytes() for key in archive} == {"factor": SKETCH.tobytes(), "rho": NEXT.tobytes()}
    sfm.here("rho", "get", ns, "factor", "--dense", "-o", there / "got.npy")
    assert abs(np.trace(np.load(there / "got.npy")) - 1) < 1e-15
    # What was fetched can be committed as it is.
    sfm.run("rho", "commit", "back", "rho=got.npz", "f=got.json", "--expected-version", "0")
    assert client.namespace("back").read()["f"].tobytes() == SKETCH.tobytes()


def test_get_that_fails_leaves_no_file(sfm: Served, client: Client) -> None:
    ns = committed(client, "fails")
    for arguments, code in (("nope", 4), ("rho", 4)):
        sfm.here("rho", "get", ns, arguments, "--version", "9", "-o", "absent.npy", code=code)
    assert "must end in" in sfm.here("rho", "get", ns, "-o", "absent.txt", code=2).stderr
    assert "cannot be written" in sfm.here("rho", "get", ns, "-o", "none/absent.npy", code=2).stderr
    assert not list(sfm.directory.glob("*absent*"))


# ---- log, show, diff


def test_log(sfm: Served, client: Client) -> None:
    ns = committed(client, "logged")
    lines = sfm.run("rho", "log", ns).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["Version", "3", "2", "1"]
    assert "why=first" in lines[3]
    lines = sfm.here("rho", "log", ns, "--limit", "2").stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["Version", "3", "2"]
    assert "--limit 0" in lines[3]
    found = sfm.json("rho", "log", ns, "--limit", "0")
    assert (found["namespace"], found["tenant"]) == (ns, "default")
    assert [v["version"] for v in found["versions"]] == [3, 2, 1]
    assert (
        found["versions"][2]["entries"][0]["certificate"]["digest"]
        == client.namespace(ns).describe(1).certificates["rho"].digest.hex()
    )
    assert "does not exist" in sfm.here("rho", "log", ns, "--tenant", "other", code=4).stderr


def test_show(sfm: Served, client: Client) -> None:
    ns = committed(client, "shown")
    said = sfm.run("rho", "show", ns).stdout
    assert said.startswith(f"{ns} version 3\n")
    assert "density factor 4×6 float64" in said
    found = sfm.json("rho", "show", ns, "--version", "1")
    assert (found["version"], found["committer"], found["metadata"]) == (1, "test", {"why": "first"})
    assert [m["key"] for m in found["matrices"]] == ["rho", "sketch"]


def test_diff(sfm: Served, client: Client) -> None:
    ns = committed(client, "differing")
    found = sfm.json("rho", "diff", ns, "1", "2")
    rho, other = found["keys"]
    assert (rho["key"], rho["change"], other["change"]) == ("rho", "changed", "same")
    assert rho["trace_distance"] == distances.trace_distance(RHO, NEXT)
    assert rho["purity"] == [distances.purity(RHO), distances.purity(NEXT)]
    assert other["frobenius"] == 0.0
    lines = sfm.run("rho", "diff", ns, "1").stdout.splitlines()
    assert lines[0] == f"{ns}: version 1 → 3"
    assert [line.split()[:2] for line in lines[2:]] == [["factor", "added"], ["rho", "changed"], ["sketch", "removed"]]


# ---- restore


def test_restore(sfm: Served, client: Client) -> None:
    ns = committed(client, "restored")
    assert "say --yes" in sfm.here("rho", "restore", ns, "1", code=2).stderr
    assert "neither a version" in sfm.here("rho", "restore", ns, "first", "--yes", code=2).stderr
    assert sfm.json("rho", "restore", ns, "1", "--yes")["version"] == 4
    sfm.here("rho", "restore", ns, "2", "--yes", "--expected-version", "3", code=4)
    assert "version 5, which holds what version 4 held" in sfm.run("rho", "restore", ns, "last-valid", "--yes").stdout
    assert client.namespace(ns).read()["rho"].tobytes() == RHO.tobytes()


@pytest.mark.parametrize(("answer", "code", "version"), [("y", 0, 4), ("n", 1, 3)])
def test_restore_asks_a_person(sfm: Served, client: Client, answer: str, code: int, version: int) -> None:
    ns = committed(client, f"asked {answer}")
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        env = {k: v for k, v in os.environ.items() if not k.startswith("SFM_")} | sfm.environment
        ran = subprocess.run(
            [*SFM, "rho", "restore", ns, "1"], stdin=theirs, capture_output=True, text=True, env=env, timeout=60, check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert ran.returncode == code, ran.stderr
    assert "is at version 3. Make version 4 of version 1?" in ran.stderr
    assert client.namespace(ns).describe().version == version
