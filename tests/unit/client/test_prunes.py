"""Prunes on the wire: what goes out, what is sent again, what comes back, and the chain of audits."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from sfm.v1 import pruner_pb2, rho_store_pb2

from sfm_grpc import wire
from sfm_grpc.client import (
    AuditReport,
    DeadlineExceeded,
    Factor,
    InvalidRequest,
    LimitExceeded,
    MatrixMalformed,
    MemoryLimit,
    PruneConfirmationRequired,
    PruneGuard,
    PrunePlan,
    PrunePlanStale,
    QuotaExceeded,
    StoreUnavailable,
    UnexpectedStatus,
    VersionConflict,
)
from sfm_grpc.client.records import moment
from tests.unit.client.small_server import SmallServer
from tests.unit.client.test_failures import DOWN, failing

TIME_US = 1_700_000_000_123_456
CALLS: dict[str, Callable[..., Any]] = {
    "PlanPrune": lambda p, **how: p.plan(["a", "b"], **how),
    "GetPrunePlan": lambda p, **how: p.get_plan("plan-1", **how),
    "ListPrunePlans": lambda p, **how: [*p.plans(**how)],
    "ApplyPrune": lambda p, **how: p.apply(keys=["a"], **how),
    "UndoPrune": lambda p, **how: p.undo(3, **how),
    "ListPruneAudits": lambda p, **how: [*p.audits(**how)],
    "SetMemoryLimit": lambda p, **how: p.set_limit(10, **how),
    "GetMemoryLimit": lambda p, **how: p.limit(**how),
}


@pytest.fixture
def prunes(client: Any) -> Any:
    return client.namespace("agent-7").prunes


def a_plan(**facts: Any) -> pruner_pb2.PrunePlan:
    given = {
        "plan_id": "plan-1",
        "namespace": "agent-7",
        "source": pruner_pb2.PRUNE_SOURCE_MESSAGE,
        "committer": "c",
        "order_id": "o",
        "state": pruner_pb2.PRUNE_PLAN_STATE_WAITING,
        "memories": 2,
        "payload_bytes": 9,
        "memories_before": 4,
        "unknown": 1,
        "unknown_keys": ["z"],
        "duplicates": 3,
        "sample_keys": ["a", "b"],
        "digest": b"d" * 32,
    }
    plan = pruner_pb2.PrunePlan(**{**given, **facts})
    plan.create_time.FromMicroseconds(TIME_US)
    plan.expire_time.FromMicroseconds(TIME_US + 1)
    return plan


# ---- what goes out


def test_a_plan_says_what_is_to_go(server: SmallServer, prunes: Any) -> None:
    prunes.plan(iter(["b", "a", "b"]), request_id="mine")
    prunes.plan("key")
    prunes.plan(keep=0)
    ranked, single, fallback = (call.request for call in server.calls("PlanPrune"))
    assert (ranked.namespace, list(ranked.order.keys), ranked.request_id) == ("agent-7", ["b", "a", "b"], "mine")
    assert list(single.order.keys) == ["key"]
    assert (fallback.WhichOneof("what"), fallback.fallback.keep) == ("fallback", 0)
    assert len({single.request_id, fallback.request_id, ""}) == 3


@pytest.mark.parametrize("said", [{}, {"keys": ["a"], "keep": 1}], ids=["nothing", "both"])
def test_a_plan_is_of_one_thing(server: SmallServer, prunes: Any, said: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="just one of keys and keep"):
        prunes.plan(**said)
    assert not server.seen


def test_what_cannot_be_sent_is_refused_here(server: SmallServer, prunes: Any) -> None:
    for ask in (
        lambda: prunes.plan(["\ud800"]),
        lambda: prunes.plan(keep=1 << 63),
        lambda: prunes.apply(keys=["\ud800"]),
        lambda: prunes.apply(plan_id="p", request_id="\ud800"),
        lambda: prunes.undo(1 << 63),
        lambda: [*prunes.audits(after=1 << 63)],
        lambda: prunes.set_limit(1, "forget"),
        lambda: [*prunes.plans(state="lost")],
    ):
        with pytest.raises(InvalidRequest):
            ask()
    assert not server.seen


def test_a_prune_is_of_a_plan_or_of_keys(server: SmallServer, prunes: Any) -> None:
    server.told["PlanPrune"] = pruner_pb2.PlanPruneResponse(plan=a_plan(), confirm_token="t").SerializeToString()
    plan = prunes.plan("a")
    prunes.apply(plan=plan)
    prunes.apply(plan=plan, confirm_token=plan.confirm_token, request_id="mine", validate_only=True)
    prunes.apply(plan_id="plan-2")
    prunes.apply(keys=["b", "a"])
    bare, confirmed, named, ranked = (call.request for call in server.calls("ApplyPrune"))
    assert (bare.namespace, bare.plan_id, bare.confirm_token, bare.validate_only) == ("agent-7", "plan-1", "", False)
    assert (confirmed.confirm_token, confirmed.request_id, confirmed.validate_only) == ("t", "mine", True)
    assert (named.plan_id, list(ranked.order.keys), ranked.HasField("commit")) == ("plan-2", ["b", "a"], False)
    assert len({bare.request_id, named.request_id, ranked.request_id, ""}) == 4
    for said in ({}, {"plan": plan, "keys": ["a"]}, {"plan": plan, "plan_id": "plan-1"}, {"plan_id": ""}):
        with pytest.raises(InvalidRequest, match="just one of plan, plan_id and keys"):
            prunes.apply(**said)
    with pytest.raises(InvalidRequest, match="it is of 'other'"):
        prunes.apply(plan=replace(plan, namespace="other"))
    assert len(server.calls("ApplyPrune")) == 4


def test_all_plans_of_a_tenant(server: SmallServer, client: Any, prunes: Any) -> None:
    pages = [
        pruner_pb2.ListPrunePlansResponse(plans=[a_plan(plan_id=f"p{n}")], next_page_token=token).SerializeToString()
        for n, token in enumerate(["next", ""])
    ]

    def turn(seen: Any, context: grpc.ServicerContext) -> None:
        server.told["ListPrunePlans"] = pages[bool(seen.request.page_token)]

    server.before = turn
    assert [p.plan_id for p in client.prune_plans(state="applied", page_size=1)] == ["p0", "p1"]
    assert [p.plan_id for p in prunes.plans()] == ["p0", "p1"]
    first, second, third, _ = (call.request for call in server.calls("ListPrunePlans"))
    assert (first.namespace, first.state, first.page_size) == ("", pruner_pb2.PRUNE_PLAN_STATE_APPLIED, 1)
    assert (second.page_token, second.page_size, third.namespace, third.state) == ("next", 1, "agent-7", 0)


def test_a_limit_has_a_policy(server: SmallServer, prunes: Any) -> None:
    limit = pruner_pb2.MemoryLimit(memories_max=10, policy=pruner_pb2.MEMORY_LIMIT_POLICY_PRUNE, memories=7)
    server.told["SetMemoryLimit"] = pruner_pb2.SetMemoryLimitResponse(limit=limit).SerializeToString()
    server.told["GetMemoryLimit"] = pruner_pb2.GetMemoryLimitResponse(limit=limit).SerializeToString()
    assert prunes.set_limit(10, policy="prune") == prunes.limit() == MemoryLimit(10, "prune", 7)
    prunes.set_limit(0)
    first, second = (call.request for call in server.calls("SetMemoryLimit"))
    assert (first.memories_max, first.policy) == (10, pruner_pb2.MEMORY_LIMIT_POLICY_PRUNE)
    assert (second.memories_max, second.policy) == (0, pruner_pb2.MEMORY_LIMIT_POLICY_REFUSE)


# ---- with ρ


def test_matrices_go_with_it_as_they_go_with_a_commit(server: SmallServer, client: Any, prunes: Any) -> None:
    rho, s = np.eye(300) / 300, np.random.default_rng(3).standard_normal((4, 300)).astype("<f4")
    changes = {"rho": rho, "sketch": Factor(s), "old": None}
    how = {"metadata": {"why": "forgotten"}, "max_step": {"rho": 0.5}, "kinds": {"rho": "density"}}
    client.namespace("agent-7").commit(changes, expected_version=0, request_id="r", **how)
    prunes.apply(keys=["a"], rho=changes, expected_version=0, request_id="r", **how)
    (committed,), (pruned,) = (server.calls(method) for method in ("CommitRho", "ApplyPrune"))
    commit = pruned.request.commit
    assert (commit.expected_version, commit.HasField("expected_version"), commit.metadata) == (0, True, {"why": "forgotten"})
    sent = rho_store_pb2.CommitRhoRequest.FromString(committed.raw)
    for told, expected in zip(commit.updates, sent.updates, strict=True):
        for update in (told, expected):
            update.put.ClearField("padding")
        assert told == expected
    assert commit.updates[0].put.data == rho.tobytes()
    assert commit.updates[1].put.factor.data == s.tobytes()
    _, bodies = wire.split(pruned.raw, wire.APPLY_PRUNE_REQUEST)
    places = [pruned.raw.index(bytes(body)) for body in bodies]
    assert [place % 8 for place in places] == [0, 0], "a reader's view of the numbers is aligned"


def test_what_is_known_afterwards_is_the_version_alone(server: SmallServer, client: Any) -> None:
    namespace = client.namespace("agent-7")
    namespace.commit({"m": np.ones((2, 2))}, expected_version=0)
    audit = pruner_pb2.PruneAudit(number=1, version=2)
    server.told["ApplyPrune"] = pruner_pb2.ApplyPruneResponse(audit=audit).SerializeToString()

    def done(seen: Any, context: grpc.ServicerContext) -> None:
        if seen.method == "ApplyPrune" and not seen.request.validate_only:
            server.namespaces["agent-7"].versions.append(server.namespaces["agent-7"].versions[-1])

    server.before = done
    changes = {"m": np.full((2, 2), 7.0)}
    namespace.prunes.apply(keys="a", rho=changes, expected_version=1, validate_only=True)
    namespace.read()
    assert namespace.prunes.apply(keys="a", rho=changes, expected_version=1).version == 2
    assert namespace.read()["m"].tolist() == np.ones((2, 2)).tolist(), "what was sent is not what is there"
    validated, after = (call.request for call in server.calls("GetRho"))
    assert (validated.freshness.min_version, after.freshness.min_version, after.known_version) == (1, 2, 1)


def test_a_snapshot_is_a_version_and_knows_kinds(server: SmallServer, client: Any) -> None:
    namespace = client.namespace("agent-7")
    namespace.commit({"m": np.eye(2) / 2}, expected_version=0, kinds={"m": "density"})
    snapshot = namespace.read()
    namespace.prunes.apply(plan_id="p", rho={"m": np.eye(2) / 2}, expected_version=snapshot)
    (call,) = server.calls("ApplyPrune")
    assert (call.request.commit.expected_version, call.request.commit.updates[0].put.kind) == (1, 1)
    with pytest.raises(InvalidRequest, match="the snapshot is of 'agent-7'"):
        client.namespace("other").prunes.apply(plan_id="p", rho={}, expected_version=snapshot)


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no version": ({"rho": {"m": [[1.0]]}}, InvalidRequest, "expected_version"),
    "a version of nothing": ({"expected_version": 0}, InvalidRequest, "expected_version"),
    "metadata of nothing": ({"metadata": {"a": "b"}}, InvalidRequest, "metadata"),
    "a step of nothing": ({"max_step": 0.5}, InvalidRequest, "max_step"),
    "kinds of nothing": ({"kinds": {"m": "density"}}, InvalidRequest, "kinds"),
    "no matrix": ({"rho": {"m": [1.0]}, "expected_version": 0}, MatrixMalformed, "m"),
    "a step of another": ({"rho": {"m": [[1.0]]}, "expected_version": 0, "max_step": {"x": 1.0}}, InvalidRequest, "max_step"),
    "a kind of another": ({"rho": {"m": [[1.0]]}, "expected_version": 0, "kinds": {"x": "generic"}}, InvalidRequest, "kinds"),
    "no kind": ({"rho": {"m": [[1.0]]}, "expected_version": 0, "kinds": {"m": "odd"}}, InvalidRequest, "kinds"),
    "half a character": ({"rho": {}, "expected_version": 0, "metadata": {"a": "\ud800"}}, InvalidRequest, "commit"),
}


@pytest.mark.parametrize("what", WRONG)
def test_mistakes_in_it_are_found_before_anything_is_sent(server: SmallServer, prunes: Any, what: str) -> None:
    said, kind, match = WRONG[what]
    with pytest.raises(kind, match=match):
        prunes.apply(keys=["a"], **said)
    assert not server.seen


def test_a_large_one_is_sent_again_too(server: SmallServer, prunes: Any) -> None:
    server.before = failing(2, grpc.StatusCode.UNAVAILABLE, "ApplyPrune")
    prunes.apply(keys=["a"], rho={"m": np.ones((1024, 1024))}, expected_version=0)
    calls = server.calls("ApplyPrune")
    assert (len(calls), len({call.request.request_id for call in calls})) == (3, 1)
    assert len(calls[2].raw) > 8 << 20


def test_one_that_no_server_would_take(server: SmallServer, connect: Any) -> None:
    prunes = connect(message_bytes_max=1 << 20).namespace("n").prunes
    with pytest.raises(LimitExceeded) as caught:
        prunes.apply(keys=["a"], rho={"m": np.ones((1024, 256))}, expected_version=0)
    assert caught.value.limit == "message_bytes_max"
    assert not server.seen


# ---- retries and refusals


@pytest.mark.parametrize("error", [grpc.StatusCode.UNAVAILABLE, DOWN], ids=["bare", "ours"])
@pytest.mark.parametrize("method", CALLS)
def test_what_is_unavailable_is_asked_again_alike(server: SmallServer, prunes: Any, method: str, error: Any) -> None:
    server.before = failing(2, error, method)
    CALLS[method](prunes)
    calls = server.calls(method)
    assert len(calls) == 3
    assert len({call.raw for call in calls}) == 1


def test_five_attempts_and_the_facts(server: SmallServer, prunes: Any) -> None:
    server.before = failing(99, DOWN, "ApplyPrune")
    with pytest.raises(StoreUnavailable):
        prunes.apply(keys=["a"])
    assert len(server.calls("ApplyPrune")) == 5


REFUSALS = [
    PruneConfirmationRequired(
        namespace="agent-7", plan_id="p", memories=2, memories_before=3, guards=("prune_keys_max is 1, this is 2",)
    ),
    PrunePlanStale(namespace="agent-7", plan_id="p", changed=1, names=("a",)),
    QuotaExceeded(namespace="agent-7", memories=3, memories_max=2),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: error.reason)
def test_a_refusal_has_its_facts_and_is_not_asked_again(server: SmallServer, prunes: Any, error: Any) -> None:
    server.before = failing(99, error, "ApplyPrune")
    with pytest.raises(type(error)) as caught:
        prunes.apply(plan_id="p")
    assert caught.value.facts() == error.facts()
    assert len(server.calls("ApplyPrune")) == 1


def test_a_conflict_says_where_the_namespace_is(server: SmallServer, client: Any) -> None:
    conflict = VersionConflict(namespace="agent-7", expected=1, current=5, committer="x", commit_time_us=0)
    server.before = failing(1, conflict, "ApplyPrune")
    namespace = client.namespace("agent-7")
    with pytest.raises(VersionConflict):
        namespace.prunes.apply(keys="a", rho={}, expected_version=1)
    with pytest.raises(Exception):  # noqa: B017, PT011  there is no such namespace here
        namespace.read()
    assert server.calls("GetRho")[0].request.freshness.min_version == 5


@pytest.mark.parametrize("method", CALLS)
def test_every_call_has_a_deadline(server: SmallServer, prunes: Any, method: str) -> None:
    server.before = lambda seen, context: time.sleep(0.5)
    with pytest.raises(DeadlineExceeded) as caught:
        CALLS[method](prunes, timeout_s=0.05)
    assert caught.value.deadline_ms == 50


# ---- what comes back


@pytest.mark.parametrize("method", CALLS)
def test_an_answer_that_is_none_is_not_believed(server: SmallServer, prunes: Any, method: str) -> None:
    server.told[method] = b"\xff\xff"
    with pytest.raises(UnexpectedStatus, match=f"the answer of {method} is not what it should be"):
        CALLS[method](prunes)


def test_a_plan_is_told_whole(server: SmallServer, prunes: Any) -> None:
    guards = [
        pruner_pb2.PruneGuard(name="prune_keys_max", value=2, bound=1, tripped=True),
        pruner_pb2.PruneGuard(name="prune_percent_max", value=50, bound=75),
    ]
    reply = {"plan": a_plan(guards=guards), "confirm_token": "secret"}
    server.told["PlanPrune"] = pruner_pb2.PlanPruneResponse(**reply).SerializeToString()
    server.told["GetPrunePlan"] = pruner_pb2.GetPrunePlanResponse(**reply).SerializeToString()
    plan = prunes.plan(["a", "b"])
    assert plan == prunes.get_plan("plan-1")
    assert plan == PrunePlan(
        plan_id="plan-1", namespace="agent-7", source="message", committer="c", order_id="o", state="waiting",
        create_time=moment(TIME_US), expire_time=moment(TIME_US + 1), memories=2, payload_bytes=9, memories_before=4,
        unknown=1, unknown_keys=("z",), duplicates=3, sample_keys=("a", "b"), digest=b"d" * 32,
        guards=(PruneGuard("prune_keys_max", 2.0, 1.0, True), PruneGuard("prune_percent_max", 50.0, 75.0, False)),
        confirm_token="secret",
    )  # fmt: skip
    assert plan.needs_confirmation
    assert "secret" not in repr(plan), "it is not for logs"
    server.told["PlanPrune"] = pruner_pb2.PlanPruneResponse(plan=a_plan(guards=guards[1:])).SerializeToString()
    assert not prunes.plan("a").needs_confirmation


def test_receipts_are_told_whole(server: SmallServer, prunes: Any) -> None:
    audit = audits_of(1)[0]
    applied = pruner_pb2.ApplyPruneResponse(audit=audit, unknown_keys=["z"], replayed=True, undo_until={"seconds": 9})
    server.told["ApplyPrune"] = applied.SerializeToString()
    server.told["UndoPrune"] = pruner_pb2.UndoPruneResponse(audit=audit, skipped_keys=["y"], replayed=True).SerializeToString()
    done = prunes.apply(keys=["a"], request_id="r")
    assert (done.unknown_keys, done.replayed, done.request_id, done.version) == (("z",), True, "r", 1)
    assert done.undo_until == moment(9_000_000)
    undone = prunes.undo(7, request_id="u", validate_only=True)
    assert (undone.skipped_keys, undone.replayed, undone.request_id, undone.audit) == (("y",), True, "u", done.audit)
    (call,) = server.calls("UndoPrune")
    assert (call.request.number, call.request.request_id, call.request.validate_only) == (7, "u", True)
    told = done.audit
    assert (told.number, told.record, told.hash, told.action) == (1, audit.record, audit.hash, "apply")
    assert (told.time, told.committer, told.source, told.plan_id, told.order_id) == (moment(TIME_US), "c", "call", "p", "o")
    assert (told.memories, told.skipped, told.undo_of, told.version) == (2, 1, 0, 1)
    server.told["ApplyPrune"] = pruner_pb2.ApplyPruneResponse().SerializeToString()
    assert prunes.apply(keys=["a"]).undo_until is None


def test_what_a_later_server_says_has_a_name(server: SmallServer, prunes: Any) -> None:
    server.told["GetPrunePlan"] = pruner_pb2.GetPrunePlanResponse(plan=a_plan(source=99, state=99)).SerializeToString()
    limit = pruner_pb2.MemoryLimit(policy=99)  # type: ignore[arg-type]
    server.told["GetMemoryLimit"] = pruner_pb2.GetMemoryLimitResponse(limit=limit).SerializeToString()
    plan = prunes.get_plan("p")
    assert (plan.source, plan.state, prunes.limit().policy) == ("unknown", "unknown", "unknown")


# ---- the chain of audits


def audits_of(count: int, namespace: str = "agent-7") -> list[pruner_pb2.PruneAudit]:
    """A chain as a server keeps it."""
    made: list[pruner_pb2.PruneAudit] = []
    last = bytes(32)
    for number in range(1, count + 1):
        facts = {
            "number": number, "action": "apply", "namespace": namespace, "time_us": TIME_US, "committer": "c", "source": "call",
            "plan_id": "p", "order_id": "o", "memories": 2, "skipped": 1, "undo_of": 0, "version": number, "é": "more",
        }  # fmt: skip
        record = json.dumps(facts, ensure_ascii=False)
        last = hashlib.sha256(last + record.encode()).digest()
        told = {name: value for name, value in facts.items() if name not in ("namespace", "time_us", "source", "é")}
        audit = pruner_pb2.PruneAudit(record=record, hash=last, source=pruner_pb2.PRUNE_SOURCE_CALL, **told)  # type: ignore[arg-type]
        audit.time.FromMicroseconds(TIME_US)
        made.append(audit)
    return made


def serve(server: SmallServer, audits: Sequence[pruner_pb2.PruneAudit], page_size: int = 3) -> None:
    """The small server answers pages of these, by their places: a wrong number is told as it is."""

    def turn(seen: Any, context: grpc.ServicerContext) -> None:
        if seen.method == "ListPruneAudits":
            size = min(seen.request.page_size or page_size, page_size)
            page = audits[seen.request.after : seen.request.after + size]
            server.told["ListPruneAudits"] = pruner_pb2.ListPruneAuditsResponse(audits=page).SerializeToString()

    server.before = turn


def test_audits_come_page_by_page(server: SmallServer, prunes: Any) -> None:
    serve(server, audits_of(7))
    assert [a.number for a in prunes.audits()] == [*range(1, 8)]
    assert [a.number for a in prunes.audits(after=4, page_size=2)] == [5, 6, 7]
    assert [(c.request.after, c.request.page_size) for c in server.calls("ListPruneAudits")] == [
        *((0, 0), (3, 0), (6, 0), (7, 0)),
        *((4, 2), (6, 2), (7, 2)),
    ]


@pytest.mark.parametrize("count", [0, 1, 3, 7])
def test_a_chain_that_is_whole(server: SmallServer, prunes: Any, count: int) -> None:
    chain = audits_of(count)
    serve(server, chain)
    report = prunes.verify_audits()
    assert report == AuditReport(audits=count, last_hash=chain[-1].hash if chain else bytes(32), wrong_number=0, problem="")
    assert report.ok


def changed(place: int, **facts: Any) -> Callable[[list[pruner_pb2.PruneAudit]], object]:
    def change(chain: list[pruner_pb2.PruneAudit]) -> None:
        for name, value in facts.items():
            setattr(chain[place], name, value)

    return change


def forged(place: int, record: str) -> Callable[[list[pruner_pb2.PruneAudit]], object]:
    """Another record with a hash that fits."""

    def change(chain: list[pruner_pb2.PruneAudit]) -> None:
        before = chain[place - 1].hash if place else bytes(32)
        chain[place].record, chain[place].hash = record, hashlib.sha256(before + record.encode()).digest()

    return change


HARMS: dict[str, tuple[Callable[[list[pruner_pb2.PruneAudit]], object], int, str]] = {
    "a record": (lambda c: setattr(c[3], "record", c[3].record.replace('"memories": 2', '"memories": 1')), 4, "its hash is"),
    "a hash": (changed(4, hash=b"x" * 32), 5, "its hash is"),
    "no hash": (changed(0, hash=b""), 1, "its hash is ;"),
    "the first is gone": (lambda c: c.pop(0), 1, "2 comes after 0"),
    "one is gone": (lambda c: c.pop(4), 5, "6 comes after 4"),
    "one is there twice": (lambda c: c.insert(2, c[1]), 3, "2 comes after 2"),
    "two change places": (lambda c: c.insert(2, c.pop(3)), 3, "4 comes after 2"),
    "a number": (changed(2, number=9), 3, "9 comes after 2"),
    "what is told beside it": (changed(5, memories=1, committer="x"), 6, "otherwise of committer, memories"),
    "when": (lambda c: c[1].time.FromMicroseconds(TIME_US + 1), 2, "otherwise of time_us"),
    "another namespace's": (lambda c: c.__setitem__(slice(None), audits_of(7, "other")), 1, "otherwise of namespace"),
    "made anew, as no JSON": (forged(6, "{"), 7, "not that of an audit"),
    "made anew, as no audit": (forged(0, "[]"), 1, "not that of an audit"),
    "made anew, without facts": (forged(0, "{}"), 1, "not that of an audit"),
}


@pytest.mark.parametrize("what", HARMS)
def test_a_chain_that_is_not(server: SmallServer, prunes: Any, what: str) -> None:
    harm, number, problem = HARMS[what]
    chain = audits_of(7)
    harm(chain)
    serve(server, chain)
    report = prunes.verify_audits()
    assert (report.ok, report.audits, report.wrong_number) == (False, number - 1, number)
    assert problem in report.problem
