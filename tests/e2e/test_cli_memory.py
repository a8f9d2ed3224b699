"""`sfm memory` and `sfm namespace`, as a person types them."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import pytest

from sfm_grpc.client import Client, MemoryPut, MemoryUpdate
from tests.support.cli import SFM, Served, here

VECTOR = np.array([0.5, -1.25, 3.0])


@pytest.fixture(scope="module")
def sfm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    # Tests share a few cores: to be late is no reason to be refused here.
    with Served(tmp_path_factory.mktemp("sfm")) as served:
        np.save(served.directory / "v.npy", VECTOR)
        np.save(served.directory / "matrix.npy", np.eye(2))
        np.save(served.directory / "words.npy", np.array(["a"]))
        (served.directory / "text.npy").write_text("no array")
        yield served


@pytest.fixture(autouse=True)
def _there(sfm: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sfm.directory)


@pytest.fixture(scope="module")
def client(sfm: Served) -> Iterator[Client]:
    with Client(sfm.addresses["grpc"], name="test") as connected:
        yield connected


# ---- put and get


def test_what_is_put_is_got(sfm: Served, client: Client) -> None:
    text = '{"text": "likes  tea", "n": 1.10, "é": null}'
    options = ("--type", "fact", "--importance", "0.7", "--coordinate", "1", "--coordinate", "-2.5", "--vector", "v.npy")
    said = sfm.run("memory", "put", "told", "tea", text, *options, "--ttl", "3600").stdout.splitlines()
    assert said[0].split() == ["Key", "Outcome", "Revision", "SHA-256", "of", "the", "payload"]
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert said[1].split() == ["tea", "created", "1", digest[:16]]
    found = sfm.json("memory", "get", "told", "tea", "--vector")
    assert (found["namespace"], found["tenant"], found["key"], found["revision"]) == ("told", "default", "tea", 1)
    assert (found["payload_json"], found["payload_digest"]) == (text, digest)
    assert (found["memory_type"], found["importance"], found["coordinates"]) == ("fact", 0.7, [1.0, -2.5])
    assert found["vector"] == VECTOR.tolist()
    assert found["expire_time"] > found["create_time"] == found["update_time"]
    assert sfm.json("memory", "get", "told", "tea")["vector"] is None
    shown = sfm.here("memory", "get", "told", "tea", "--vector").stdout
    assert "vector       3 numbers: 0.5, -1.25, 3" in shown
    assert text in shown
    assert client.namespace("told").memories.get("tea").payload_json == text


def test_a_payload_comes_from_stdin_and_goes_to_stdout_byte_for_byte(sfm: Served) -> None:
    for text in ('{"x": 1.0}\n', '  ["é𝄞"]', '"a\\nb"'):
        put = [*SFM, "memory", "put", "piped", "k", "-"]
        subprocess.run(put, input=text.encode(), env={**os.environ, **sfm.environment}, check=True, stdout=subprocess.DEVNULL)
        assert sfm.run("memory", "get", "piped", "k", "--payload").stdout == text
    ran = subprocess.run(put, input=b'"\xff"', env={**os.environ, **sfm.environment}, capture_output=True, check=False)
    assert (ran.returncode, b"stdin is not UTF-8" in ran.stderr) == (2, True)


def test_without_json_only_the_options_change(sfm: Served, client: Client) -> None:
    sfm.here("memory", "put", "parts", "k", '{"x": 1}', "--type", "t", "--importance", "1", "--coordinate", "3")
    told = sfm.json("memory", "put", "parts", "k", "--importance", "-2", "--vector", "v.npy")
    assert [(r["key"], r["outcome"], r["revision"]) for r in told["receipts"]] == [("k", "updated", 2)]
    found = client.namespace("parts").memories.get("k", with_vector=True)
    assert (found.payload, found.memory_type, found.importance, found.coordinates) == ({"x": 1}, "t", -2.0, (3.0,))
    assert found.vector is not None
    assert found.vector.tolist() == VECTOR.tolist()
    sfm.here("memory", "put", "parts", "k", "[]")
    bare = client.namespace("parts").memories.get("k", with_vector=True)
    assert (bare.memory_type, bare.importance, bare.coordinates, bare.vector) == ("", 0.0, (), None)
    assert "not found" in sfm.here("memory", "put", "parts", "other", "--importance", "1", code=4).stderr


def test_parts_can_be_taken_away(sfm: Served, client: Client) -> None:
    sfm.here("memory", "put", "taken", "k", "1", "--type", "t", "--coordinate", "3", "--vector", "v.npy", "--ttl", "600")
    sfm.here("memory", "put", "taken", "k", "--no-vector", "--no-expiry")
    left = client.namespace("taken").memories.get("k", with_vector=True)
    assert (left.vector, left.expire_time, left.coordinates, left.memory_type, left.payload) == (None, None, (3.0,), "t", 1)
    sfm.here("memory", "put", "taken", "k", "--no-coordinates", "--vector", "v.npy", "--importance", "2")
    left = client.namespace("taken").memories.get("k", with_vector=True)
    assert left.vector is not None
    assert (left.vector.tolist(), left.coordinates, left.importance) == (VECTOR.tolist(), (), 2.0)


def test_a_vector_comes_from_stdin_too(sfm: Served, client: Client) -> None:
    environment = {**os.environ, **sfm.environment}
    for content in (b"[0.5, -1.25, 3]\n", (sfm.directory / "v.npy").read_bytes()):
        put = [*SFM, "memory", "put", "streamed", "k", "1", "--vector", "-"]
        subprocess.run(put, input=content, env=environment, check=True, stdout=subprocess.DEVNULL)
        found = client.namespace("streamed").memories.get("k", with_vector=True).vector
        assert found is not None
        assert found.tolist() == VECTOR.tolist()


def test_conditions_and_repetitions(sfm: Served) -> None:
    put = ("memory", "put", "once", "k")
    assert sfm.json(*put, "1", "--create-only")["receipts"][0]["outcome"] == "created"
    assert "'k' of 'once' exists already, at revision 1" in sfm.here(*put, "2", "--create-only", code=4).stderr
    assert sfm.json(*put, "2", "--if-revision", "1")["receipts"][0]["revision"] == 2
    assert "has revision 2, not revision 1" in sfm.here(*put, "3", "--if-revision", "1", code=4).stderr
    assert "has revision 2, not revision 1" in sfm.here("memory", "delete", "once", "k", "--if-revision", "1", code=4).stderr
    assert "nothing was recorded" in sfm.here(*put, "3", "--validate-only").stdout
    assert sfm.json(*put, "3", "--request-id", "r")["receipts"][0]["replayed"] is False
    assert "this is the first answer again" in sfm.here(*put, "3", "--request-id", "r").stdout
    assert sfm.json("memory", "get", "once", "k")["revision"] == 3


BAD_PUTS = {
    "nothing": ((), 2, "say the JSON"),
    "create without json": (("--create-only", "--type", "t"), 2, "say the JSON"),
    "two conditions": (("1", "--create-only", "--if-revision", "1"), 2, "exclude each other"),
    "no file": (("1", "--vector", "none.npy"), 2, "none.npy cannot be read"),
    "a matrix": (("1", "--vector", "matrix.npy"), 2, "matrix.npy holds no vector"),
    "words": (("1", "--vector", "words.npy"), 2, "words.npy holds no vector"),
    "text": (("1", "--vector", "text.npy"), 2, "not a file of numbers"),
    "all of it without a part": (("1", "--no-vector"), 2, "--no-vector is for a put without JSON"),
    "a vector and none": (("--vector", "v.npy", "--no-vector"), 2, "exclude each other"),
    "two inputs of stdin": (("-", "--vector", "-"), 2, "stdin"),
    "nan seconds": (("1", "--ttl", "nan"), 2, "ttl"),
    "no json": (("{x}",), 4, "is no JSON"),
    "no importance": (("1", "--importance", "inf"), 4, "importance"),
    "nine coordinates": (("1", *("--coordinate", "1") * 9), 4, "coordinates_max is 8"),
    "a short life": (("1", "--ttl", "-1"), 4, "ttl"),
}


@pytest.mark.parametrize("name", BAD_PUTS)
def test_puts_that_are_refused_say_why(sfm: Served, name: str) -> None:
    arguments, code, why = BAD_PUTS[name]
    said = sfm.here("memory", "put", "refused", "k", *arguments, code=code).stderr
    assert why in said
    assert len(said.splitlines()) == 1
    assert "not found" in sfm.here("memory", "get", "refused", "k", code=4).stderr


def test_when_there_is_no_server_it_says_how_to_find_out() -> None:
    gone = {"SFM_TARGET": "127.0.0.1:1"}
    said = here("memory", "put", "n", "k", "1", "--timeout", "0.5", code=3, env=gone).stderr
    assert "to learn whether it was put, repeat it with --request-id " in said
    assert "sfm serve" in here("memory", "get", "n", "k", code=3, env=gone).stderr


# ---- list


@pytest.fixture(scope="module")
def listed(client: Client) -> str:
    items = [
        MemoryPut(f"k{n:02}", {"n": n}, memory_type=["even", "odd"][n % 2], importance=n / 10, coordinates=(n, -n))
        for n in range(25)
    ]
    client.namespace("listed").memories.put_many([*items, MemoryPut("long", "x" * 500)])
    return "listed"


LISTS = {
    "the first": ((), [f"k{n:02}" for n in range(20)]),
    "all": (("--limit", "0"), [*(f"k{n:02}" for n in range(25)), "long"]),
    "some": (("--limit", "2", "--type", "odd"), ["k01", "k03"]),
    "types": (("--limit", "3", "--type", "odd", "--type", "even"), ["k00", "k01", "k02"]),
    "prefix": (("--prefix", "k2"), ["k20", "k21", "k22", "k23", "k24"]),
    "importance": (("--min-importance", "2.2", "--max-importance", "2.3"), ["k22", "k23"]),
    "box": (("--box", "3:4,:"), ["k03", "k04"]),
    "half a box": (("--box", ":2, -1:"), ["k00", "k01"]),
    "since": (
        ("--created-after", "2020-01-31", "--updated-after", "2020-01-31T12:00+01:00", "--prefix", "k2"),
        [f"k2{n}" for n in range(5)],
    ),
    "until": (("--created-before", "2020-01-31 12:00:00.123 UTC"), []),
    "written until": (("--updated-before", "2020-01-31T12:00:00Z"), []),
    "falling": (("--order", "importance", "--descending", "--limit", "2"), ["k24", "k23"]),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_what_was_asked_for(sfm: Served, listed: str, name: str) -> None:
    options, expected = LISTS[name]
    assert [m["key"] for m in sfm.json("memory", "list", listed, *options)["memories"]] == expected
    lines = sfm.here("memory", "list", listed, *options).stdout.splitlines()
    assert lines[0].split() == ["Key", "Revision", "Type", "Importance", "Written", "Expires", "Payload"]
    assert [line.split()[0] for line in lines[1 : len(expected) + 1]] == expected
    more = lines[len(expected) + 1 :]
    cut = name in ("the first", "some", "types", "falling")
    assert more == (["… and more; --limit 0 lists all"] if cut else [])


def test_a_long_payload_is_cut_in_the_table_alone(sfm: Served, listed: str) -> None:
    assert sfm.here("memory", "list", listed, "--prefix", "long").stdout.endswith("x… (502 bytes)\n")
    assert sfm.json("memory", "list", listed, "--prefix", "long")["memories"][0]["payload_json"] == f'"{"x" * 500}"'


def test_lists_that_cannot_be(sfm: Served, listed: str) -> None:
    assert "none of key, create_time" in sfm.here("memory", "list", listed, "--order", "size", code=2).stderr
    assert "nothing is in it" in sfm.here(
        "memory", "list", listed, "--min-importance", "2", "--max-importance", "1", code=4
    ).stderr  # fmt: skip
    assert "'nowhere' does not exist" in sfm.here("memory", "list", "nowhere", code=4).stderr
    assert "--created-after: 'now' is no time" in sfm.here("memory", "list", listed, "--created-after", "now", code=2).stderr
    for box in ("3", "a:b", "1:2,", ""):
        assert "is no range: say LOW:HIGH" in sfm.here("memory", "list", listed, "--box", box, code=2).stderr


# ---- search


@pytest.fixture(scope="module")
def near(sfm: Served, client: Client) -> str:
    angles = np.arange(8) / 3
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.save(sfm.directory / "east.npy", np.array([1, 0]))
    items = [MemoryPut(f"k{n}", {"n": n}, memory_type=["even", "odd"][n % 2], importance=n) for n in range(8)]
    memories = client.namespace("near").memories
    memories.put_many([*items, MemoryPut("bare", 0)])
    assert all(
        r.indexed for r in memories.put_many([MemoryUpdate(item.key) for item in items], vectors=vectors, wait_indexed_s=20)
    )
    return "near"


SEARCHES = {
    "a vector": (("--vector-file", "east.npy", "--limit", "3"), ["k0", "k1", "k2"]),
    "a memory": (("--like", "k0", "--limit", "2"), ["k1", "k2"]),
    "all": (("--vector", "east.npy"), [f"k{n}" for n in range(8)]),
    "type": (("--like", "k0", "--type", "odd", "--limit", "2"), ["k1", "k3"]),
    "importance": (("--like", "k0", "--min-importance", "5", "--max-importance", "6"), ["k5", "k6"]),
    "since": (("--like", "k0", "--updated-after", "2020-01-31", "--prefix", "k7"), ["k7"]),
    "until": (("--like", "k0", "--created-before", "2020-01-31"), []),
    "nowhere": (("--like", "k0", "--box", ":"), []),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_what_is_near(sfm: Served, near: str, name: str) -> None:
    options, expected = SEARCHES[name]
    told = sfm.json("memory", "search", near, *options)
    assert [n["key"] for n in told["neighbours"]] == expected
    assert (told["namespace"], told["indexed_revision"], told["newest_revision"]) == ("near", 17, 17)
    ran = sfm.here("memory", "search", near, *options)
    lines = ran.stdout.splitlines()
    assert (lines[0].split(), ran.stderr) == (["Key", "Score", "Type", "Importance", "Payload"], "")
    assert [line.split()[0] for line in lines[1:]] == expected


def test_a_score_is_what_the_distance_says(sfm: Served, near: str) -> None:
    first, second = sfm.json("memory", "search", near, "--vector-file", "east.npy", "--limit", "2")["neighbours"]
    assert (first["score"], second["score"]) == pytest.approx((1.0, np.cos(1 / 3)), abs=1e-6)
    assert (second["payload_json"], second["memory_type"], second["vector"]) == ('{"n":1}', "odd", None)
    assert "0.9450" in sfm.here("memory", "search", near, "--vector-file", "east.npy", "--limit", "2").stdout


def test_a_search_reads_stdin(sfm: Served, near: str) -> None:
    search = [*SFM, "memory", "search", near, "--vector-file", "-", "--limit", "1", "--json"]
    for content in (b"[1, 0]", (sfm.directory / "east.npy").read_bytes()):
        ran = subprocess.run(search, input=content, env={**os.environ, **sfm.environment}, capture_output=True, check=True)
        assert [n["key"] for n in json.loads(ran.stdout)["neighbours"]] == ["k0"]


BAD_SEARCHES = {
    "nothing": ((), 2, "say either --vector-file or --like"),
    "both": (("--like", "k0", "--vector-file", "east.npy"), 2, "say either --vector-file or --like"),
    "no file": (("--vector-file", "none.npy"), 2, "none.npy cannot be read"),
    "a matrix": (("--vector-file", "matrix.npy"), 2, "matrix.npy holds no vector"),
    "another dimension": (("--vector-file", "v.npy"), 4, "has 3 numbers; the vectors of 'near' have 2"),
    "nobody": (("--like", "nobody"), 4, "'nobody' not found"),
    "no vector": (("--like", "bare"), 2, "memory 'bare' has no vector"),
    "too many": (("--like", "k0", "--limit", "5000"), 4, "limit"),
}


@pytest.mark.parametrize("name", BAD_SEARCHES)
def test_searches_that_cannot_be_say_why(sfm: Served, near: str, name: str) -> None:
    options, code, why = BAD_SEARCHES[name]
    said = sfm.here("memory", "search", near, *options, code=code).stderr
    assert why in said
    assert len(said.splitlines()) == 1


def test_a_put_waits_until_a_search_finds_it(sfm: Served) -> None:
    told = sfm.json("memory", "put", "waited", "k", "1", "--vector", "v.npy", "--wait-indexed", "20")
    assert told["receipts"][0]["indexed"] is True
    assert [n["key"] for n in sfm.json("memory", "search", "waited", "--vector-file", "v.npy")["neighbours"]] == ["k"]


# ---- delete, undelete, purge


def outcomes(told: dict[str, list[dict[str, object]]]) -> list[object]:
    return [receipt["outcome"] for receipt in told["receipts"]]


def test_what_is_deleted_comes_back_and_what_is_purged_does_not(sfm: Served, client: Client) -> None:
    client.namespace("gone").memories.put_many([MemoryPut(key, 0) for key in "abc"])
    assert outcomes(sfm.json("memory", "delete", "gone", "a", "x", "b")) == ["deleted", "unchanged", "deleted"]
    sfm.here("memory", "get", "gone", "a", code=4)
    assert outcomes(sfm.json("memory", "undelete", "gone", "a", "c")) == ["undeleted", "unchanged"]
    assert "cannot be undeleted" in sfm.here("memory", "undelete", "gone", "b", "x", code=4).stderr
    assert outcomes(sfm.json("memory", "purge", "gone", "a", "b", "--yes")) == ["purged", "purged"]
    assert "cannot be undeleted" in sfm.here("memory", "undelete", "gone", "a", code=4).stderr
    assert [m.key for m in client.namespace("gone").memories.list()] == ["c"]
    assert "--if-revision is of one memory" in sfm.here("memory", "delete", "gone", "c", "d", "--if-revision", "1", code=2).stderr


def test_purge_asks(sfm: Served, client: Client) -> None:
    memories = client.namespace("asked").memories
    memories.put("a", 1)
    said = sfm.run("memory", "purge", "asked", "a", code=2).stderr
    assert "purge cannot be taken back and there is nobody to ask: say --yes" in said
    assert answered(sfm, "n", "memory", "purge", "asked", "a", "b") != 0
    assert memories.get("a").payload == 1
    assert answered(sfm, "y", "memory", "purge", "asked", "a", "b") == 0
    assert memories.get_many(["a"]).missing == ("a",)


def answered(sfm: Served, answer: str, *arguments: str) -> int:
    """Runs a command on a terminal of its own, types the answer; its exit code."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        ran = subprocess.run(
            [*SFM, *arguments], stdin=theirs, capture_output=True, env={**os.environ, **sfm.environment}, timeout=60, check=False
        )
    finally:
        os.close(theirs)
        os.close(ours)
    assert b"Delete 'a' and 1 more of asked for good?" in ran.stderr
    return ran.returncode


# ---- namespaces


def test_namespaces(sfm: Served, client: Client) -> None:
    assert sfm.here("namespace", "create", "made", "--dimension", "3", "--distance", "dot").stdout.startswith("made is created\n")
    again = sfm.json("namespace", "create", "made", "--dimension", "3", "--distance", "dot")
    assert (again["existed"], again["namespace"]["dimension"], again["namespace"]["distance"]) == (True, 3, "dot")
    assert "'made' exists already" in sfm.here("namespace", "create", "made", code=4).stderr
    assert "'far' is none of cosine, dot, euclidean" in sfm.here("namespace", "create", "x", "--distance", "far", code=2).stderr
    sfm.here("memory", "put", "made", "k", "[1]", "--vector", "v.npy")
    sfm.here("memory", "put", "made", "l", "[]")
    told = sfm.json("namespace", "describe", "made")
    assert {k: told[k] for k in ("tenant", "name", "revision", "memories", "vectors", "payload_bytes", "tombstones")} == {
        "tenant": "default", "name": "made", "revision": 2, "memories": 2, "vectors": 1, "payload_bytes": 5, "tombstones": 0,
    }  # fmt: skip
    shown = sfm.here("namespace", "describe", "made").stdout
    assert "memories   2, 1 of them with a vector" in shown
    assert "payloads   5 bytes, 2 bytes on average" in shown
    assert "vectors    12 bytes" in shown
    # The index follows a moment later.
    deadline = time.monotonic() + 20
    while sfm.json("namespace", "describe", "made")["indexed_revision"] < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "index      has every write" in sfm.here("namespace", "describe", "made").stdout
    found = {n["name"]: n for n in sfm.json("namespace", "list")["namespaces"]}
    assert found["made"] == {k: v for k, v in told.items() if k != "tenant"} | {"indexed_revision": None}
    row = next(line for line in sfm.here("namespace", "list").stdout.splitlines() if line.startswith("made "))
    assert row.split()[:8] == ["made", "2", "1", "3", "dot", "5", "bytes", "2"]
    assert sfm.json("namespace", "list", "--tenant", "other")["namespaces"] == []
    assert "does not exist" in sfm.here("namespace", "describe", "nowhere", code=4).stderr


def test_what_others_wrote_cannot_steer_a_terminal(sfm: Served, client: Client) -> None:
    client.namespace("steered").memories.put("k\u202e", {"x": "\x1b[31m\u009b"}, memory_type="t\u2066")
    for command in (("get", "steered", "k\u202e"), ("list", "steered")):
        said = sfm.here("memory", *command).stdout
        assert all(c.isprintable() or c == "\n" for c in said)
        assert "\\u202e" in said
