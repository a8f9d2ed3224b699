"""`sfm rho verify`, `export`, `verify-export`: honest histories pass, and everything that was bent is found."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from sfm_grpc.cli.export_check import check_export
from sfm_grpc.cli.measure import Bounds
from sfm_grpc.client import Client, Factor
from sfm_grpc.density.envelope import deserialize_matrix, serialize_matrix
from tests.support.cli import Served
from tests.support.matrices import density, rank_one, sketch, with_eigenvalue

Records: TypeAlias = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _there(sfm: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sfm.directory)


@pytest.fixture(scope="module")
def sfm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("sfm"), SFM_RHO_VERIFY_INTERVAL_S="0.2") as served:
        with Client(served.addresses["grpc"]) as client:
            for namespace in ("agent", "corrupt"):
                make_history(client, namespace)
        served.run("rho", "export", "agent", "-o", "agent.jsonl")
        yield served


def make_history(client: Client, namespace: str) -> None:
    ns = client.namespace(namespace)
    ns.commit({"rho": density(seed=1), "sketch": sketch()}, expected_version=0, metadata={"why": "first"})
    ns.commit({"rho": rank_one(seed=2)}, expected_version=1)
    ns.commit({"factor": Factor(sketch(seed=3)), "sketch": None}, expected_version=2)
    ns.commit({"rho": density(seed=4, dtype="<f4")}, expected_version=3)
    ns.restore(1, expected_version=4)


# ---- what is right


def test_verify(sfm: Served) -> None:
    assert "version, 2 matrices" in sfm.run("rho", "verify", "agent").stdout.replace("distinct ", "")
    found = sfm.json("rho", "verify", "agent", "--all")
    assert (found["ok"], found["versions"], found["wrong"]) == (True, [1, 2, 3, 4, 5], [])
    assert [(m["version"], m["key"]) for m in found["matrices"]] == [
        (1, "rho"),
        (1, "sketch"),
        (2, "rho"),
        (3, "factor"),
        (4, "rho"),
    ]
    assert sfm.json("rho", "verify", "agent", "--version", "3")["versions"] == [3]
    assert "exclude each other" in sfm.here("rho", "verify", "agent", "--all", "--version", "1", code=2).stderr
    sfm.here("rho", "verify", "nobody", code=4)


def test_verify_export(sfm: Served) -> None:
    assert "everything is as certified" in sfm.run("verify-export", "agent.jsonl").stdout
    found = sfm.json("verify-export", "agent.jsonl")
    assert (found["ok"], found["versions"], found["bodies"], found["wrong"]) == (True, [1, 2, 3, 4, 5], 5, [])
    assert found["keys"]["rho"]["versions"] == 5
    assert found["keys"]["rho"]["matrices"] == 3
    assert -1e-7 < found["keys"]["rho"]["min_eigenvalue"] < 1e-3
    assert "is not an exported history" in sfm.here("verify-export", "stdout.txt", code=2).stderr
    assert "cannot be read" in sfm.here("verify-export", "none", code=2).stderr


def test_export_holds_each_matrix_once_and_bit_for_bit(sfm: Served) -> None:
    header, *records = load(sfm)
    assert (header["format"], header["versions"], header["bodies"]) == ("sfm-rho-history/1", 5, 5)
    bodies = [r for r in records if r["record"] == "body"]
    arrays = [deserialize_matrix(base64.b64decode(b["envelope"])).tobytes() for b in bodies]
    assert density(seed=1).tobytes() in arrays
    assert sketch(seed=3).tobytes() in arrays
    ran = sfm.run("rho", "export", "agent", "-o", "/dev/stdout")
    assert [json.loads(line) for line in ran.stdout.splitlines()][1:] == [header, *records][1:]
    assert "5 versions (1 to 5), 5 distinct matrices" in ran.stderr
    sfm.here("rho", "export", "nobody", "-o", "nobody.jsonl", code=4)
    assert not list(sfm.directory.glob("*nobody*"))


# ---- what is wrong in a file


def load(sfm: Served) -> Records:
    return [json.loads(line) for line in (sfm.directory / "agent.jsonl").read_text().splitlines()]


def checked(tmp_path: Path, lines: list[Any], bounds: Bounds | None = None) -> list[str]:
    """Everything that is wrong with these records."""
    path = tmp_path / "bent.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return [str(wrong) for wrong in check_export(path, bounds or Bounds()).wrong]


def body_of(records: Records, version: int, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The body record and the certificate of a key."""
    certificate = entry_of(records, version, key)["certificate"]
    return next(r for r in records if r.get("digest") == certificate["digest"]), certificate


def version_of(records: Records, version: int) -> dict[str, Any]:
    return next(r for r in records if r.get("version") == version)


def entry_of(records: Records, version: int, key: str) -> dict[str, Any]:
    entry: dict[str, Any] = next(e for e in version_of(records, version)["entries"] if e["key"] == key)
    return entry


def replace_numbers(records: Records, version: int, key: str, array: Any) -> None:
    """Other numbers under honest digests everywhere: only mathematics can tell."""
    body, certificate = body_of(records, version, key)
    old, envelope = certificate["digest"], serialize_matrix(array)
    new = hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
    body.update(digest=new, envelope=base64.b64encode(envelope).decode())
    for record in records:
        for entry in record.get("entries", ()):
            if entry["certificate"]["digest"] == old:
                entry["certificate"]["digest"] = new


def flip(records: Records) -> None:
    body, _ = body_of(records, 1, "rho")
    raw = bytearray(base64.b64decode(body["envelope"]))
    raw[-1] ^= 1
    body["envelope"] = base64.b64encode(raw).decode()


def add_nan(records: Records) -> None:
    numbers = density(seed=1)
    numbers[0, 1] = np.nan
    replace_numbers(records, 1, "rho", numbers)


def bend(field: str, value: object, key: str = "rho") -> Callable[[Records], None]:
    """Changes a field of every certificate of version 1's matrix."""

    def change(records: Records) -> None:
        digest = entry_of(records, 1, key)["certificate"]["digest"]
        for record in records:
            for entry in record.get("entries", ()):
                if entry["certificate"]["digest"] == digest:
                    entry["certificate"][field] = value

    return change


def asymmetric(records: Records) -> None:
    numbers = density(seed=1)
    numbers[0, 1] += 1e-6
    replace_numbers(records, 1, "rho", numbers)


BENT: dict[str, tuple[Callable[[Records], object], str]] = {
    "a bit of the numbers": (flip, "version 1: 'rho': line 7: "),
    "not finite": (add_nan, "version 1: 'rho': there are numbers that are not finite"),
    "negative": (lambda r: replace_numbers(r, 1, "rho", with_eigenvalue(-1e-4)), "not positive semi-definite: λ_min = -0.0001"),
    "trace": (lambda r: replace_numbers(r, 1, "rho", density(seed=1) * 1.001), "|tr ρ − 1| = 0.001 > 1e-06"),
    "asymmetric": (asymmetric, "not Hermitian: ‖ρ − ρᵀ‖_F = 1.41e-06"),
    "claimed bound": (bend("min_eigenvalue_bound", 0.5), "certified ≥ 0.5"),
    "claimed trace error": (bend("trace_error", 1e-9), "certified 1e-09"),
    "says invalid": (bend("valid", False), "not valid"),
    "another shape": (bend("shape", [3, 12]), "are not in the file"),
    "a version is missing": (lambda r: r.remove(version_of(r, 3)), "versions 3 to 3 are missing"),
    "two in another order": (lambda r: r.insert(1, r.pop(2)), "comes after version 2"),
    "a body is missing": (lambda r: r.remove(body_of(r, 3, "factor")[0]), "are not in the file"),
    "a body twice": (lambda r: r.append(body_of(r, 3, "factor")[0]), "that were there before"),
    "the last line is missing": (lambda r: r.pop(), "it is not whole"),
    "an unchanged key changed": (lambda r: version_of(r, 2)["changed_keys"].remove("rho"), "without having changed it"),
    "a restore of something else": (lambda r: version_of(r, 5).update(restored_version=2), "which it restored"),
    "time runs backwards": (lambda r: version_of(r, 2).update(commit_time="2001-01-01T00:00:00+00:00"), "was committed before"),
    "a time without a zone": (lambda r: version_of(r, 2).update(commit_time="2001-01-01T00:00:00"), "line 3 is damaged"),
    "a field is missing": (lambda r: version_of(r, 2).pop("entries"), "line 3 is damaged: KeyError"),
    "put later": (lambda r: entry_of(r, 2, "rho").update(put_version=4), "was put by version 4"),
    "put by another": (lambda r: entry_of(r, 3, "rho").update(put_version=1), "is not what version 1 put"),
    "valid of a version": (lambda r: version_of(r, 2).update(valid=False), "its certificates say otherwise"),
    "no JSON": (lambda r: r.insert(3, "{"), "line 4 is damaged"),
    "deep JSON": (lambda r: r.insert(3, "[" * 100_000), "line 4 is damaged"),
    "no object": (lambda r: r.insert(3, "[]"), "not a JSON object"),
    "unknown record": (lambda r: r.insert(3, {"record": "what"}), "unknown record 'what'"),
    "base64": (lambda r: body_of(r, 1, "rho")[0].update(envelope="%"), "line 7"),
    "a body nobody needs": (
        lambda r: r.append(
            {"record": "body", "digest": "00" * 32, "envelope": base64.b64encode(serialize_matrix(np.eye(2))).decode()}
        ),
        "that no version holds",
    ),
}


@pytest.mark.parametrize("name", BENT)
def test_verify_export_finds(sfm: Served, tmp_path: Path, name: str) -> None:
    records = load(sfm)
    change, sentence = BENT[name]
    change(records)
    wrong = checked(tmp_path, records)
    assert wrong
    assert any(sentence in one for one in wrong), wrong


def test_verify_export_holds_to_the_callers_own_bounds(sfm: Served, tmp_path: Path) -> None:
    records = load(sfm)
    assert checked(tmp_path, records) == []
    wrong = checked(tmp_path, records, Bounds(trace_tolerance=1e-12))
    assert len(wrong) == 1
    assert "version 4: 'rho': |tr ρ − 1|" in wrong[0]  # float32


def test_verify_export_lists_what_is_wrong(sfm: Served) -> None:
    records = load(sfm)
    replace_numbers(records, 1, "rho", with_eigenvalue(-1e-4))
    (sfm.directory / "bent.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    lines = sfm.run("verify-export", "bent.jsonl", code=1).stdout.splitlines()
    assert any(line.startswith("  version 1: 'rho': not positive semi-definite") for line in lines)
    found = sfm.json("verify-export", "bent.jsonl", code=1)
    assert found["ok"] is False
    assert {"version", "key", "problem"} == set(found["wrong"][0])


# ---- what is wrong in a store


def wait_until_told(sfm: Served) -> None:
    deadline = time.monotonic() + 30
    with Client(sfm.addresses["grpc"]) as client:
        while client.health().ok:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_corrupted_store_is_told_by_every_command(sfm: Served) -> None:
    with sqlite3.connect(sfm.data / "sfm.db") as store:
        body, numbers = store.execute(
            "SELECT b.body_id, b.numbers FROM rho_body b JOIN rho_entry e USING (body_id) JOIN namespace n USING (namespace_id)"
            " WHERE n.name = 'corrupt' AND e.version = 5 AND e.key = 'rho'"
        ).fetchone()
        store.execute("UPDATE rho_body SET numbers = ? WHERE body_id = ?", (numbers[:-1] + bytes([numbers[-1] ^ 1]), body))
    wait_until_told(sfm)
    sfm.here("healthcheck", "--service", "rho", code=1)
    sfm.here("healthcheck")
    assert "fail their digest" in sfm.run("status", code=1).stdout
    found = sfm.json("status", "--namespace", "corrupt", code=1)
    assert found["health"]["rho"][0]["corrupt"] is True
    assert "fail their digest" in sfm.here("rho", "get", "corrupt", "-o", "corrupt.npy", code=1).stderr
    found = sfm.json("rho", "verify", "corrupt", "--all", code=1)
    assert [(w["version"], w["key"]) for w in found["wrong"]] == [(1, "rho")]
    # What can be saved is saved, and the file says itself what is missing.
    assert "fail their digest" in sfm.run("rho", "export", "corrupt", "-o", "corrupt.jsonl", code=1).stderr
    found = sfm.json("verify-export", "corrupt.jsonl", code=1)
    assert [(w["version"], w["key"]) for w in found["wrong"]] == [(1, "rho")]
    assert sfm.json("rho", "restore", "corrupt", "last-valid", "--yes")["restored_version"] == 4
    sfm.here("rho", "verify", "corrupt")
