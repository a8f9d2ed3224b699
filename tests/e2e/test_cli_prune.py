"""`sfm prune`, as a person types it."""

from __future__ import annotations

import os
import shlex
import sqlite3
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from sfm_grpc.client import Client, MemoryPut
from tests.support.cli import SFM, Served, here

KEYS = [f"k{n:02}" for n in range(20)]


@pytest.fixture(scope="module")
def sfm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    # Tests share a few cores: to be late is no reason to be refused here.
    with Served(tmp_path_factory.mktemp("sfm")) as served:
        yield served


@pytest.fixture(autouse=True)
def _there(sfm: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sfm.directory)


@pytest.fixture(scope="module")
def client(sfm: Served) -> Iterator[Client]:
    with Client(sfm.addresses["grpc"], name="test") as connected:
        yield connected


@pytest.fixture
def ns(client: Client, request: pytest.FixtureRequest) -> str:
    """A namespace of its own for each test: twenty memories, the first of them least important."""
    name = request.node.name
    client.namespace(name).memories.put_many([MemoryPut(key, {"n": n}, importance=n) for n, key in enumerate(KEYS)])
    return name


def keys(client: Client, ns: str) -> list[str]:
    return [memory.key for memory in client.namespace(ns).memories.list()]


def told(sfm: Served, stdout: str) -> Any:
    """What the command that was printed prints: it is typed as it stands."""
    (line,) = [line.strip() for line in stdout.splitlines() if line.startswith("  sfm prune ")]
    return sfm.here(*shlex.split(line)[1:])


# ---- plan, show, apply


def test_a_plan_under_the_guards_needs_no_token(sfm: Served, client: Client, ns: str) -> None:
    said = sfm.run("prune", "plan", ns, "k03", "k01", "k03", "never").stdout
    lines = [line.split() for line in said.splitlines()]
    assert ["would", "go", "2", "of", "20", "memories,", "14", "bytes", "of", "payloads"] in lines
    assert ["first", "k03,", "k01"] in lines
    assert ["not", "there", "1:", "never"] in lines
    assert ["said", "twice", "1"] in lines
    assert ["prune_percent_max", "10", "%", "at", "most", "20", "%", "passes"] in lines
    assert ["prune_remaining_min", "18", "at", "least", "1", "passes"] in lines
    assert "--confirm-token" not in said
    assert keys(client, ns) == KEYS
    done = told(sfm, said).stdout
    assert f"2 memories of {ns} are pruned: audit 1\n1 not there: never\n" in done
    assert keys(client, ns) == [key for key in KEYS if key not in ("k01", "k03")]
    again = told(sfm, done).stdout
    assert f"2 memories of {ns} are there again: audit 2" in again
    assert keys(client, ns) == KEYS


def test_a_guard_wants_the_token(sfm: Served, client: Client, ns: str) -> None:
    plan = sfm.json("prune", "plan", ns, "--keep", "5")
    assert (plan["tenant"], plan["namespace"], plan["state"], plan["source"]) == ("default", ns, "waiting", "call")
    assert (plan["memories"], plan["memories_before"], plan["sample_keys"]) == (15, 20, KEYS[:15])
    assert [(g["name"], g["value"], g["bound"]) for g in plan["guards"] if g["tripped"]] == [("prune_percent_max", 75, 20)]
    assert plan["needs_confirmation"] is True
    apply = ("prune", "apply", ns, "--plan", plan["plan_id"])
    assert plan["apply"] == shlex.join(["sfm", *apply, "--confirm-token", plan["confirm_token"]])
    refused = sfm.here(*apply, code=4).stderr
    assert "prune_percent_max is 20, this is 75" in refused
    assert len(refused.splitlines()) == 1
    assert "the token does not confirm plan" in sfm.here(*apply, "--confirm-token", "x", code=4).stderr
    shown = sfm.here("prune", "show", ns, plan["plan_id"]).stdout
    assert "TRIPS: needs the token" in shown
    valid = sfm.here(*shlex.split(plan["apply"])[1:], "--validate-only").stdout
    assert valid == f"valid; nothing was recorded: 15 memories of {ns} would be pruned\n"
    assert keys(client, ns) == KEYS
    told(sfm, shown)
    assert keys(client, ns) == KEYS[15:]
    assert "was applied at" in sfm.here(*shlex.split(plan["apply"])[1:], code=4).stderr
    after = sfm.json("prune", "show", ns, plan["plan_id"])
    assert (after["state"], after["confirm_token"], after["apply"]) == ("applied", "", "")


def test_a_plan_goes_stale(sfm: Served, client: Client, ns: str) -> None:
    plan = sfm.json("prune", "plan", ns, "k00", "k01")
    client.namespace(ns).memories.update("k01", importance=9)
    client.namespace(ns).memories.put("new", 1)
    said = sfm.here("prune", "apply", ns, "--plan", plan["plan_id"], code=4).stderr
    assert "1 memory of plan" in said
    assert "('k01'); plan again" in said
    assert keys(client, ns) == [*KEYS, "new"]


def test_the_same_request_gets_the_same_answer(sfm: Served, ns: str) -> None:
    plans = [sfm.json("prune", "plan", ns, "k00", "--request-id", "p")["plan_id"] for _ in range(2)]
    assert plans[0] == plans[1]
    assert "with other content" in sfm.here("prune", "plan", ns, "k01", "--request-id", "p", code=4).stderr
    apply = ("prune", "apply", ns, "k00", "gone", "--request-id", "a")
    first, second = sfm.json(*apply), sfm.json(*apply)
    assert (first["replayed"], second["replayed"], first["request_id"]) == (False, True, "a")
    assert (first["audit"], first["unknown_keys"], second["audit"]) == (second["audit"], ["gone"], first["audit"])
    assert "this is the first answer again" in sfm.here(*apply).stdout


@pytest.mark.parametrize("content", [b"k02\nk00\n", b"k02\r\n\r\nk00"], ids=["lines", "others' lines"])
def test_keys_come_from_a_file_or_stdin(sfm: Served, client: Client, ns: str, content: bytes) -> None:
    (sfm.directory / "keys.txt").write_bytes(content)
    assert sfm.json("prune", "plan", ns, "--file", "keys.txt")["sample_keys"] == ["k02", "k00"]
    command = [*SFM, "prune", "apply", ns, "--file", "-"]
    environment = {**os.environ, **sfm.environment}
    subprocess.run(command, input=content, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert keys(client, ns) == ["k01", *KEYS[3:]]


BAD = {
    "nothing": (("plan",), 2, "no key is named"),
    "keys and keep": (("plan", "k00", "--keep", "3"), 2, "exclude each other"),
    "a file and keep": (("plan", "--file", "keys.txt", "--keep", "3"), 2, "exclude each other"),
    "keys and a file": (("apply", "k00", "--file", "keys.txt"), 2, "say the keys, or --file"),
    "keys and a plan": (("apply", "k00", "--plan", "p"), 2, "exclude each other"),
    "a token of nothing": (("apply", "k00", "--confirm-token", "t"), 2, "is of a plan"),
    "no file": (("plan", "--file", "none.txt"), 2, "none.txt cannot be read"),
    "an empty file": (("plan", "--file", "empty.txt"), 2, "empty.txt names no key"),
    "no text": (("apply", "--file", "binary.txt"), 2, "binary.txt is not UTF-8"),
    "no plan": (("apply", "--plan", "p"), 4, "prune plan 'p' not found"),
    "none to show": (("show", "p"), 4, "prune plan 'p' not found"),
    "no prune": (("undo", "7"), 4, "prune '7' not found"),
    "a policy of nothing": (("limit", "--policy", "prune"), 2, "goes with a number"),
    "no policy": (("limit", "5", "--policy", "forget"), 2, "policy"),
    "over a guard": (("apply", *KEYS), 4, "PlanPrune makes a plan"),
    "after, verified": (("audit", "--verify", "--after", "1"), 2, "begins with the first"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_say_what_they_are(sfm: Served, client: Client, name: str) -> None:
    (sfm.directory / "empty.txt").write_bytes(b"\n\n")
    (sfm.directory / "binary.txt").write_bytes(b"\xff\n")
    (command, *arguments), code, why = BAD[name]
    client.namespace("wrong").memories.put_many([MemoryPut(key, 1) for key in KEYS])
    said = sfm.here("prune", command, "wrong", *arguments, code=code).stderr
    assert why in said
    assert len(said.splitlines()) == 1
    assert keys(client, "wrong") == KEYS


@pytest.mark.parametrize(("command", "done"), [(("apply", "n", "k"), "pruned"), (("undo", "n", "1"), "undone")])
def test_when_there_is_no_server_it_says_how_to_find_out(command: tuple[str, ...], done: str) -> None:
    said = here("prune", *command, "--timeout", "0.5", code=3, env={"SFM_TARGET": "127.0.0.1:1"}).stderr
    assert f"to learn whether it was {done}, repeat it with --request-id " in said


# ---- undo, audit


def test_what_was_written_since_is_left_as_it_is(sfm: Served, client: Client, ns: str) -> None:
    sfm.here("prune", "apply", ns, "k00", "k01", "k02")
    client.namespace(ns).memories.put("k01", "new")
    assert "would be there again" in sfm.here("prune", "undo", ns, "1", "--validate-only").stdout
    said = sfm.here("prune", "undo", ns, "1").stdout
    assert said == f"2 memories of {ns} are there again: audit 2\n1 left as they are: k01\n"
    assert client.namespace(ns).memories.get("k01").payload == "new"
    assert client.namespace(ns).memories.get("k00").payload == {"n": 0}
    assert "was undone by 2" in sfm.here("prune", "undo", ns, "1", code=4).stderr


def test_audits_are_listed_and_hold(sfm: Served, client: Client, ns: str) -> None:
    assert sfm.here("prune", "audit", ns, "--verify").stdout.split()[:4] == ["chain", "is", "whole", "audits"]
    for key in KEYS[:3]:
        sfm.here("prune", "apply", ns, key, "never")
    sfm.here("prune", "undo", ns, "2")
    listed = sfm.json("prune", "audit", ns)
    assert (listed["namespace"], [a["number"] for a in listed["audits"]]) == (ns, [1, 2, 3, 4])
    assert listed["audits"][0]["record"].startswith('{"number":1,')
    rows = [line.split() for line in sfm.here("prune", "audit", ns, "--after", "2").stdout.splitlines()]
    assert [(row[0], row[4], row[5]) for row in rows[1:]] == [("3", "apply", "1"), ("4", "undo", "of")]
    first = sfm.here("prune", "audit", ns, "--limit", "2").stdout
    assert "… and more; --after 2 goes on" in first
    verified = sfm.json("prune", "audit", ns, "--verify")
    assert (verified["ok"], verified["audits"], verified["last_hash"]) == (True, 4, listed["audits"][-1]["hash"])


def test_a_record_that_was_changed_is_found(sfm: Served, client: Client, ns: str) -> None:
    for key in KEYS[:3]:
        client.namespace(ns).prunes.apply(keys=key)
    with sqlite3.connect(sfm.data / "sfm.db") as store:
        changed = "UPDATE prune_audit SET record = replace(record, '\"memories\":1,', '\"memories\":0,')"
        assert store.execute(f"{changed} WHERE namespace = ? AND number = 2", (ns,)).rowcount == 1
    said = sfm.here("prune", "audit", ns, "--verify", code=1).stdout
    assert "WRONG at 2: its hash is" in said
    assert "1 holds, from the first on" in said
    found = sfm.json("prune", "audit", ns, "--verify", code=1)
    assert (found["ok"], found["audits"], found["wrong_number"]) == (False, 1, 2)


# ---- plans, limit


def test_plans_are_listed_of_one_namespace_or_of_all(sfm: Served, client: Client, ns: str) -> None:
    other = f"{ns}-other"
    client.namespace(other).memories.put("a", 1)
    mine = [sfm.json("prune", "plan", ns, key)["plan_id"] for key in KEYS[:3]]
    theirs = sfm.json("prune", "plan", other, "a")["plan_id"]
    sfm.here("prune", "apply", ns, "--plan", mine[1])
    listed = sfm.json("prune", "plans", ns)["plans"]
    assert [(p["plan_id"], p["state"]) for p in listed] == [(mine[2], "waiting"), (mine[1], "applied"), (mine[0], "waiting")]
    assert not {"guards", "confirm_token"} & set(listed[0])
    assert [p["plan_id"] for p in sfm.json("prune", "plans", "--limit", "2")["plans"]] == [theirs, mine[2]]
    assert [p["plan_id"] for p in sfm.json("prune", "plans", ns, "--state", "applied")["plans"]] == [mine[1]]
    table = sfm.here("prune", "plans", ns, "--limit", "2").stdout.splitlines()
    assert [line.split()[:3] for line in table[1:3]] == [[mine[2], ns, "waiting"], [mine[1], ns, "applied"]]
    assert table[3] == "… and older ones; --limit 0 lists all"
    assert "none of waiting" in sfm.here("prune", "plans", "--state", "lost", code=2).stderr


def test_a_limit_is_set_and_shown(sfm: Served, ns: str) -> None:
    assert [line.split() for line in sfm.here("prune", "limit", ns).stdout.splitlines()] == [
        ["memories", "20"],
        ["at", "most", "any", "number"],
    ]
    assert "beyond    refused" in sfm.here("prune", "limit", ns, "20").stdout
    assert "may have 20 memories, and would have 21" in sfm.here("memory", "put", ns, "more", "1", code=4).stderr
    found = sfm.json("prune", "limit", ns, "21", "--policy", "prune")
    assert found == {"namespace": ns, "tenant": "default", "memories_max": 21, "policy": "prune", "memories": 20}
    assert sfm.json("prune", "limit", ns) == found
    assert sfm.json("prune", "limit", ns, "0")["memories_max"] == 0


def test_the_next_command_says_where_the_server_is(sfm: Served) -> None:
    target = sfm.addresses["grpc"]
    place = ("--target", target, "--tenant", "a tenant")
    with Client(target, tenant="a tenant") as client:
        client.namespace("n").memories.put_many([MemoryPut(key, 1) for key in KEYS])
    said = here("prune", "plan", "n", "k00", *place).stdout
    assert said.rstrip().endswith(f"--target {target} --tenant 'a tenant'")
    assert "SFM" not in said
    env = {"SFM_TARGET": target, "SFM_TENANT": "a tenant"}
    assert "--t" not in here("prune", "plan", "n", "k00", env=env).stdout
