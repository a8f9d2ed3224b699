"""Commits: what goes out, and what the client knows afterwards without asking."""

from __future__ import annotations

import numpy as np
import pytest

from sfm_grpc.client import Factor, InvalidRequest, LimitExceeded, MatrixMalformed, VersionConflict
from tests.unit.client.test_reads import rho


@pytest.fixture
def namespace(client):
    return client.namespace("agent-7")


def sent(server):
    return server.calls("CommitRho")[-1].request


def test_what_goes_out(server, namespace) -> None:
    s = rho(1, 8)[:2]
    changes = {"rho": rho(), "fd_sketch": Factor(s), "plain": np.ones((1, 5), "<f4"), "checked": rho(2, 4), "old": None}
    done = namespace.commit(
        changes,
        expected_version=0,
        metadata={"step": "7"},
        request_id="mine",
        max_step={"rho": 0.25},
        kinds={"checked": "density"},
    )
    request = sent(server)
    assert (request.namespace, request.request_id, dict(request.metadata)) == ("agent-7", "mine", {"step": "7"})
    assert request.HasField("expected_version")
    assert [u.key for u in request.updates] == list(changes)
    by_key = {u.key: u for u in request.updates}
    assert [by_key[k].put.kind for k in ("rho", "fd_sketch", "plain", "checked")] == [1, 1, 2, 1]
    assert by_key["rho"].put.data == rho().tobytes()
    assert by_key["fd_sketch"].put.factor.data == s.tobytes()
    assert list(by_key["plain"].put.shape) == [1, 5]
    assert by_key["plain"].put.dtype == 2
    assert by_key["old"].WhichOneof("change") == "delete"
    assert by_key["rho"].max_step == 0.25
    assert not by_key["plain"].HasField("max_step")
    assert done.version == 1
    assert done.request_id == "mine"
    assert done.receipts["old"].deleted
    assert done.receipts["rho"].certificate.digest == done.receipts["rho"].digest
    assert done.receipts["rho"].step == 0.5
    assert server.seen[-1].metadata["x-soma-tenant"] == "default"
    assert server.seen[-1].metadata["x-soma-client"] == "test"


def test_arrays_of_any_layout_in_memory(server, namespace) -> None:
    square = rho()
    for version, array in enumerate(
        (square.T, np.asfortranarray(square), square[::-1, ::-1], square.astype(">f8"), square[3:9, 5:50])
    ):
        namespace.commit({"m": array}, expected_version=version)
        assert sent(server).updates[0].put.data == np.ascontiguousarray(array, "<f8").tobytes()


def test_large_numbers_are_aligned_for_the_server(server, namespace) -> None:
    for version, key in enumerate(("a", "ab", "abc", "abcd", "abcde")):
        namespace.commit({key: rho(), "s" + key: Factor(rho(1))}, expected_version=version)
        for numbers in (rho().tobytes(), rho(1).tobytes()):
            assert server.seen[-1].raw.index(numbers) % 8 == 0


def test_one_bound_for_every_key(server, namespace) -> None:
    namespace.commit({"rho": rho(), "b": rho()}, expected_version=0, max_step=0.5)
    assert [u.max_step for u in sent(server).updates] == [0.5, 0.5]


def test_a_request_id_of_its_own_for_each_commit(server, namespace) -> None:
    for version in range(3):
        namespace.commit({"rho": rho()}, expected_version=version)
    ids = [c.request.request_id for c in server.calls("CommitRho")]
    assert len(set(ids)) == 3
    assert all(ids)
    namespace.commit({"rho": rho()}, expected_version=3, request_id="")
    assert sent(server).request_id == ""


def test_the_same_again_is_answered_again(namespace) -> None:
    first = namespace.commit({"rho": rho()}, expected_version=0, request_id="once")
    again = namespace.commit({"rho": rho()}, expected_version=0, request_id="once")
    assert (first.version, first.replayed) == (1, False)
    assert (again.version, again.replayed) == (1, True)


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.ones((2, 2), complex), "complex128 is not float64 or float32"),
        (np.ones((2, 2), int), "int64 is not float64 or float32"),
        (np.ones(3), "two dimensions"),
        (np.ones((2, 3)), "square"),
        (Factor(np.ones(3)), "two dimensions"),
        (np.ones((0, 0)), "at least 1"),
        ("text", "dtype"),
        ([[1.0, "x"]], "dtype"),
    ],
)
def test_what_is_no_matrix_is_refused_here_and_says_which(server, namespace, array, problem) -> None:
    with pytest.raises(MatrixMalformed, match=problem) as caught:
        namespace.commit({"rho": array}, expected_version=0)
    assert caught.value.key == "rho"
    assert not server.seen


def test_what_would_be_misunderstood_is_refused_here(server, client, namespace) -> None:
    namespace.commit({"rho": rho()}, expected_version=0)
    snapshot = namespace.read()
    with pytest.raises(InvalidRequest, match="names 'rhho'"):
        namespace.commit({"rho": rho()}, expected_version=1, max_step={"rhho": 1.0})
    with pytest.raises(InvalidRequest, match="names 'b'"):
        namespace.commit({"rho": rho()}, expected_version=1, kinds={"b": "density"})
    with pytest.raises(InvalidRequest, match="neither 'density' nor 'generic'"):
        namespace.commit({"rho": rho()}, expected_version=1, kinds={"rho": "dense"})
    with pytest.raises(InvalidRequest, match="of 'agent-7', not of 'other'"):
        client.namespace("other").commit({"rho": rho()}, expected_version=snapshot)
    assert len(server.calls("CommitRho")) == 1


def test_a_key_keeps_the_kind_it_has_in_the_snapshot(server, namespace) -> None:
    namespace.commit({"second": rho()}, expected_version=0, kinds={"second": "density"})
    namespace.commit({"second": rho(1), "third": rho(1)}, expected_version=namespace.read())
    assert [u.put.kind for u in sent(server).updates] == [1, 2]


def test_more_than_the_limit_stays_here(server, connect) -> None:
    small = connect(message_bytes_max=1 << 20).namespace("n")
    with pytest.raises(LimitExceeded) as caught:
        small.commit({"m": np.ones((400, 400))}, expected_version=0)
    assert caught.value.maximum == 1 << 20
    assert not server.seen


def test_an_answer_over_the_limit_is_a_limit(server, connect) -> None:
    connect().namespace("n").commit({"m": np.ones((600, 600))}, expected_version=0)
    with pytest.raises(LimitExceeded) as caught:
        connect(message_bytes_max=1 << 20).namespace("n").read()
    assert caught.value.value > 600 * 600 * 8


# ---- what is known afterwards --------------------------------------------------------------------------------------


def test_own_numbers_are_not_read_back(server, namespace) -> None:
    array = rho()
    done = namespace.commit({"rho": array, "gone": None}, expected_version=0)
    array[:] = 0  # the caller's own array: what was committed is what was sent
    snapshot = namespace.read()
    assert server.seen[-1].request.known_version == 1
    assert not snapshot.modified
    assert snapshot["rho"].tobytes() == rho().tobytes()
    assert not snapshot["rho"].flags.writeable
    assert not snapshot["rho"].flags.owndata
    assert snapshot["rho"].flags.aligned
    assert snapshot.certificates["rho"] == done.receipts["rho"].certificate
    assert snapshot.commit_time == done.commit_time
    assert snapshot.commit_time.microsecond == 7
    snapshot.verify()


def test_known_keys_stay_known_when_others_change(server, namespace) -> None:
    namespace.commit({"rho": rho(), "b": rho(1), "s": Factor(rho(2))}, expected_version=0)
    namespace.commit({"b": rho(3)}, expected_version=1)
    namespace.commit({"s": None, "a": rho(4)}, expected_version=2)
    snapshot = namespace.read()
    assert not snapshot.modified
    assert {k: v.tobytes() for k, v in snapshot.matrices.items()} == {
        "a": rho(4).tobytes(), "b": rho(3).tobytes(), "rho": rho().tobytes()
    }  # fmt: skip
    assert list(snapshot) == ["a", "b", "rho"]
    assert snapshot.put_versions == {"a": 3, "b": 2, "rho": 1}


def test_a_selection_is_carried_along(server, connect, namespace) -> None:
    namespace.commit({"rho": rho(), "b": rho(1)}, expected_version=0)
    other = connect().namespace("agent-7")
    other.read("rho")
    other.commit({"b": rho(2)}, expected_version=1)
    assert not other.read("rho").modified
    assert other.read().modified  # what else there is was never known
    other.commit({"rho": None}, expected_version=2)
    assert not other.read("b").modified
    namespace.read()


def test_clamped_numbers_are_read_back(server, namespace) -> None:
    server.clamp = True
    done = namespace.commit({"rho": rho()}, expected_version=0)
    assert done.receipts["rho"].clamped
    assert namespace.read().modified


def test_without_knowing_what_was_there_nothing_is_known(server, connect, namespace) -> None:
    namespace.commit({"a": rho()}, expected_version=0)
    other = connect().namespace("agent-7")
    other.commit({"b": rho()}, expected_version=1)
    snapshot = other.read()
    assert snapshot.modified
    assert list(snapshot) == ["a", "b"]


def test_a_validation_changes_nothing(server, namespace) -> None:
    assert namespace.commit({"rho": rho()}, expected_version=0, validate_only=True).version == 1
    namespace.commit({"rho": rho()}, expected_version=0)
    namespace.commit({"rho": rho(1)}, expected_version=1, validate_only=True)
    snapshot = namespace.read()
    assert (snapshot.version, snapshot.modified) == (1, False)
    assert server.seen[-1].request.freshness.min_version == 1


def test_a_conflict_names_the_version(server, namespace) -> None:
    namespace.commit({"rho": rho()}, expected_version=0)
    with pytest.raises(VersionConflict) as caught:
        namespace.commit({"rho": rho(1)}, expected_version=0)
    assert (caught.value.current, caught.value.committer) == (1, "other")
    assert not namespace.read().modified


def test_restore(server, namespace) -> None:
    namespace.commit({"rho": rho()}, expected_version=0)
    namespace.commit({"rho": rho(1)}, expected_version=1)
    done = namespace.restore(1, expected_version=namespace.read(), metadata={"why": "test"})
    assert (done.version, done.restored_version, done.entries[0].key) == (3, 1, "rho")
    request = server.seen[-1].request
    assert (request.version, request.expected_version, dict(request.metadata)) == (1, 2, {"why": "test"})
    assert request.request_id == done.request_id
    assert namespace.read()["rho"].tobytes() == rho().tobytes()
    namespace.restore("last_valid", expected_version=3, request_id="r", validate_only=True)
    assert server.seen[-1].request.WhichOneof("target") == "last_valid"
    assert server.seen[-1].request.validate_only
