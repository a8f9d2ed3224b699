"""What an order says: the schema that senders are given and the reader of the server judge alike."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sfm_grpc.coordinator.prune_messages import read
from sfm_grpc.coordinator.sent import Form
from sfm_grpc.density.envelope import serialize_matrix
from sfm_grpc.errors import InvalidRequest
from sfm_grpc.model import Kind, Scope
from tests.support.matrices import density
from tests.support.schemas import schema_of

ENVELOPE = serialize_matrix(density(seed=1))
BASE64 = base64.b64encode(ENVELOPE).decode()


def said(**more: Any) -> dict[str, Any]:
    return {"order_id": "o1", "tenant": "t", "namespace": "n", "keys": ["b", "a"], **more}


def commit(*updates: Any, **more: Any) -> dict[str, Any]:
    return said(commit={"expected_version": 7, "updates": list(updates), **more})


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in said().items() if key != name}


GOOD: list[Any] = [
    said(),
    said(order_id="ö" * 32, keys=["ß" * 128]),
    said(committer="manager"),
    said(committer=""),
    said(keys=["a", "a"]),
    commit({"key": "rho", "envelope": BASE64}),
    commit({"key": "rho", "envelope": BASE64, "max_step": 0}, {"key": "old", "delete": True}, metadata={"why": ""}),
    commit({"key": "sketch", "envelope": "", "kind": "generic", "max_step": 0.5}),
]
BAD: list[tuple[Any, str]] = [
    ([], "value"),
    ("order", "value"),
    (None, "value"),
    *((without(name), name) for name in ("order_id", "tenant", "namespace", "keys")),
    *((said(**{name: ""}), name) for name in ("order_id", "tenant", "namespace")),
    *((said(**{name: 7}), name) for name in ("order_id", "tenant", "namespace", "keys", "committer", "commit")),
    *((said(**{name: None}), name) for name in ("order_id", "tenant", "namespace", "keys", "committer", "commit")),
    *((said(**{name: "a\tb"}), name) for name in ("order_id", "tenant", "namespace", "committer")),
    *((said(**{name: "x" * 257}), name) for name in ("tenant", "namespace", "committer")),
    (said(tenant="n\n"), "tenant"),
    (said(tenant="n\u0085"), "tenant"),
    (said(order_id="x" * 65), "request_id"),
    (said(keys=[]), "keys"),
    (said(keys=["a", ""]), "keys[1]"),
    (said(keys=["a", 1]), "keys[1]"),
    (said(keys={"a": 1}), "keys"),
    (said(surprise=1), "surprise"),
    (said(commit={}), "commit.expected_version"),
    (said(commit={"expected_version": 1}), "commit.updates"),
    (commit(), "commit.updates"),
    (commit({"key": "rho", "envelope": BASE64}, expected_version=-1), "commit.expected_version"),
    (commit({"key": "rho", "envelope": BASE64}, expected_version=2**63), "commit.expected_version"),
    (commit({"key": "rho", "envelope": BASE64}, expected_version="1"), "commit.expected_version"),
    (commit({"key": "rho", "envelope": BASE64}, metadata={"why": 1}), "commit.metadata[...]"),
    (commit({"key": "rho", "envelope": BASE64}, metadata={"": "1"}), "commit.metadata"),
    (commit({"key": "rho", "envelope": BASE64}, author="me"), "commit.author"),
    (commit({"key": "rho"}), "commit.updates[0]"),
    (commit({"envelope": BASE64}), "commit.updates[0].key"),
    (commit({"key": "", "envelope": BASE64}), "commit.updates[0].key"),
    (commit({"key": "rho", "envelope": "?"}), "commit.updates[0].envelope"),
    (commit({"key": "rho", "envelope": "AAA"}), "commit.updates[0].envelope"),
    (commit({"key": "rho", "envelope": BASE64, "kind": "sparse"}), "commit.updates[0].kind"),
    (commit({"key": "rho", "envelope": BASE64, "max_step": -1}), "commit.updates[0].max_step"),
    (commit({"key": "rho", "envelope": BASE64, "max_step": "1"}), "commit.updates[0].max_step"),
    (commit({"key": "a", "delete": True}, {"key": "rho", "delete": False}), "commit.updates[1].delete"),
    (commit({"key": "rho", "delete": False, "envelope": BASE64}), "commit.updates[0].delete"),
    (commit({"key": "rho", "delete": True, "envelope": BASE64}), "commit.updates[0].delete"),
    (commit({"key": "rho", "delete": True, "kind": "density"}), "commit.updates[0].delete"),
    (commit({"key": "rho", "delete": True, "max_step": 0}), "commit.updates[0].delete"),
    (commit({"key": "rho", "delete": True, "envelope": ""}), "commit.updates[0].delete"),
    (commit({"key": "rho", "envelope": BASE64, "digest": ""}), "commit.updates[0].digest"),
]


@pytest.mark.parametrize("order", GOOD, ids=range(len(GOOD)))
def test_a_good_order_is_one_to_both(order: Any) -> None:
    assert list(schema_of("prune.order").iter_errors(order)) == []
    read(json.dumps(order).encode())


@pytest.mark.parametrize(("order", "field"), BAD, ids=range(len(BAD)))
def test_a_bad_order_is_one_to_both_and_its_field_is_named(order: Any, field: str) -> None:
    assert list(schema_of("prune.order").iter_errors(order)) != []
    with pytest.raises(InvalidRequest) as refused:
        read(json.dumps(order).encode())
    assert refused.value.field == field, refused.value


@pytest.mark.parametrize("value", [None, b"", b"{", b"\xff", b'{"order_id": "\xff"}', b"[" * 100_000, b'{"order_id": "\\ud800"}'])
def test_what_is_no_json_is_refused(value: bytes | None) -> None:
    with pytest.raises(InvalidRequest, match="value: "):
        read(value)


def test_everything_that_is_said_is_read() -> None:
    order = read(
        json.dumps(
            said(committer="manager")
            | commit(
                {"key": "rho", "envelope": BASE64},
                {"key": "sketch", "envelope": BASE64, "kind": "generic", "max_step": 0.5},
                {"key": "old", "delete": True},
                metadata={"why": "b"},
            )
        ).encode()
    )
    assert (order.order_id, order.scope, list(order.keys)) == ("o1", Scope("t", "n"), ["b", "a"])
    assert order.commit is not None
    assert (order.commit.expected_version, order.commit.metadata) == (7, {"why": "b"})
    rho, sketch, old = order.commit.updates
    assert rho.put is not None
    assert (rho.key, rho.put.form, rho.put.kind, rho.put.body, rho.max_step) == ("rho", Form.ENVELOPE, None, ENVELOPE, None)
    assert sketch.put is not None
    assert (sketch.put.kind, sketch.max_step, sketch.field) == (Kind.GENERIC, 0.5, "commit.updates[1]")
    assert (old.key, old.put) == ("old", None)
