"""Reads: numpy in and out without a copy, and nothing travels twice."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from sfm_grpc.client import Factor, InvalidRequest, Layout, NotFound, RhoCorrupt, UnexpectedStatus, VersionNotReached
from sfm_grpc.client.records import moment
from tests.unit.client.small_server import TIME_S

D = 64


def rho(seed: int = 0, d: int = D) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(d, d))
    a = a @ a.T
    return a / np.trace(a)


@pytest.fixture
def namespace(client):
    return client.namespace("agent-7")


@pytest.fixture
def other(connect):
    """The same namespace, seen by a client that has seen nothing."""
    return connect().namespace("agent-7")


@pytest.mark.parametrize("dtype", ["<f8", "<f4"])
def test_what_is_read_is_what_was_committed_bit_for_bit(namespace, other, dtype) -> None:
    sent = rho().astype(dtype)
    sent[0, 1] = -0.0
    namespace.commit({"rho": sent, "odd": np.full((1, 3), 1 / 3, dtype)}, expected_version=0)
    snapshot = other.read()
    assert snapshot["rho"].dtype == np.dtype(dtype)
    assert snapshot["rho"].tobytes() == sent.tobytes()
    assert snapshot["odd"].tobytes() == np.full((1, 3), 1 / 3, dtype).tobytes()
    assert snapshot.modified
    snapshot.verify()


def test_large_arrays_are_views_of_the_reply(namespace, other) -> None:
    namespace.commit({"rho": rho(), "sketch": Factor(rho(1))}, expected_version=0)
    snapshot = other.read()
    for key in ("rho", "sketch"):
        array = snapshot[key]
        assert array.flags.aligned
        assert not array.flags.owndata
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1.0


def test_a_writer_that_does_not_align_costs_a_copy_and_nothing_else(server, namespace, other) -> None:
    server.aligned = False
    for version, name in enumerate(("k", "ke", "key", "keys")):
        namespace.commit({name: rho()}, expected_version=version)
    snapshot = other.read()
    assert all(a.flags.aligned and not a.flags.writeable and a.tobytes() == rho().tobytes() for a in snapshot.matrices.values())


def test_a_snapshot_says_what_it_is(namespace, other) -> None:
    namespace.commit({"rho": rho(), "fd_sketch": Factor(rho(1, 8)[:2])}, expected_version=0)
    snapshot = other.read()
    assert snapshot.version == 1
    assert snapshot.commit_time == datetime.fromtimestamp(TIME_S + 1, UTC)
    assert snapshot.as_of_time == datetime.fromtimestamp(TIME_S + 100, UTC)
    assert snapshot.source == "cache"
    assert not snapshot.degraded
    assert list(snapshot) == ["fd_sketch", "rho"]
    assert len(snapshot) == 2
    assert snapshot.layouts == {"fd_sketch": Layout.FACTOR, "rho": Layout.DENSE}
    assert snapshot.put_versions == {"fd_sketch": 1, "rho": 1}
    assert snapshot.certificates["rho"].shape == (D, D)
    assert "64×64 float64" in repr(snapshot)
    assert snapshot.get("nothing") is None
    with pytest.raises(KeyError, match="holds no 'nothing' here, it holds 'fd_sketch', 'rho'"):
        snapshot["nothing"]


def test_dense_is_what_is_meant(namespace, other) -> None:
    s = np.random.default_rng(3).normal(size=(2, 8)).astype("<f4")
    namespace.commit({"rho": rho(), "single": rho(1).astype("<f4"), "sketch": Factor(s)}, expected_version=0)
    snapshot = other.read()
    assert snapshot.dense("rho").base is not None
    assert snapshot.dense("single").tobytes() == rho(1).astype("<f4").astype("<f8").tobytes()
    exact = s.astype("<f8").T @ s.astype("<f8")
    np.testing.assert_allclose(snapshot.dense("sketch"), exact / np.trace(exact), rtol=1e-13)
    np.testing.assert_array_equal(snapshot.dense("sketch"), Factor(s).dense())


def test_unchanged_numbers_do_not_travel(server, namespace, other) -> None:
    namespace.commit({"rho": rho()}, expected_version=0)
    first, second = other.read(), other.read()
    assert second["rho"] is first["rho"]
    assert (first.modified, second.modified) == (True, False)
    reads = server.calls("GetRho")
    assert [r.request.known_version for r in reads] == [0, 1]
    assert reads[1].reply_bytes < 100
    namespace.commit({"rho": rho(1)}, expected_version=1)
    third = other.read()
    assert third.modified
    assert third["rho"].tobytes() == rho(1).tobytes()


def test_a_part_is_served_from_the_whole(server, namespace, other) -> None:
    namespace.commit({"rho": rho(), "b": rho(1)}, expected_version=0)
    whole = other.read()
    part = other.read("rho")
    assert list(part) == ["rho"]
    assert part["rho"] is whole["rho"]
    assert not part.modified
    assert list(server.seen[-1].request.keys) == ["rho"]
    with pytest.raises(NotFound, match="'c'"):
        other.read(["rho", "c"])
    assert server.seen[-1].request.known_version == 0


def test_each_selection_is_kept_by_itself(server, namespace, other) -> None:
    namespace.commit({"rho": rho(), "b": rho(1)}, expected_version=0)
    assert other.read(["rho", "b", "b"]).modified
    assert not other.read(("b", "rho")).modified
    assert other.read("b").modified
    assert other.read().modified


def test_an_exact_version(server, namespace, other) -> None:
    for version in range(3):
        namespace.commit({"rho": rho(version)}, expected_version=version)
    old = other.read(version=2)
    assert (old.version, old.as_of_time) == (2, None)
    assert old["rho"].tobytes() == rho(1).tobytes()
    assert other.read().version == 3
    assert other.read(version=2).modified
    assert not other.read(version=3).modified
    assert not other.read().modified


def test_freshness_goes_out_as_it_was_asked_for(server, namespace, other) -> None:
    namespace.commit({"rho": rho()}, expected_version=0)
    other.read(consistency="canonical", max_staleness_s=1.25)
    freshness = server.seen[-1].request.freshness
    assert freshness.consistency == 2
    assert freshness.max_staleness.ToMilliseconds() == 1250
    with pytest.raises(VersionNotReached) as caught:
        other.read(min_version=5)
    assert caught.value.current == 1
    with pytest.raises(InvalidRequest, match="'fresh' is neither"):
        other.read(consistency="fresh")
    with pytest.raises(InvalidRequest, match="None reads all"):
        other.read([])


def test_no_read_is_older_than_anything_seen(server, client) -> None:
    """However it was learned: read, commit, conflict, list, description, restore, a refusal."""
    writer = client.namespace("n")
    writer.commit({"rho": rho()}, expected_version=0)
    writer.read()
    assert server.seen[-1].request.freshness.min_version == 1
    server.namespaces["n"].versions += [server.namespaces["n"].versions[-1]] * 4
    assert next(iter(writer.versions())).version == 5
    writer.read()
    assert server.seen[-1].request.freshness.min_version == 5
    server.namespaces["n"].versions += [server.namespaces["n"].versions[-1]] * 4
    with pytest.raises(Exception, match="is at version 9"):
        writer.commit({"rho": rho()}, expected_version=5)
    writer.describe()
    assert server.seen[-1].request.freshness.min_version == 9
    writer.restore("last_valid", expected_version=9)
    writer.read(min_version=3)
    assert server.seen[-1].request.freshness.min_version == 10
    writer.forget()
    assert writer.read().modified
    assert server.seen[-1].request.freshness.min_version == 0


def test_a_server_that_came_back_from_a_backup_is_noticed_and_its_numbers_read_again(server, namespace) -> None:
    for version in range(3):
        namespace.commit({"rho": rho(version)}, expected_version=version)
    del server.namespaces["agent-7"].versions[2:]
    with pytest.raises(VersionNotReached):
        namespace.read()
    held = server.namespaces["agent-7"].versions
    held += [held[1]] * 2
    again = namespace.read()
    assert again.version == 3
    assert again.modified
    assert again["rho"].tobytes() == rho(0).tobytes()


def test_describe_brings_no_numbers(server, namespace, other) -> None:
    namespace.commit({"rho": rho()}, expected_version=0)
    described = other.describe()
    assert server.seen[-1].reply_bytes < 500
    assert "rho" in described
    assert not described.matrices
    assert described.certificates["rho"].dtype.label == "float64"
    with pytest.raises(KeyError, match="described, not read"):
        described["rho"]
    assert other.describe(1).version == 1
    assert other.read().modified


def test_versions_are_asked_for_page_by_page(server, namespace) -> None:
    for version in range(7):
        namespace.commit({"rho": rho(version, 4)}, expected_version=version)
    versions = namespace.versions()
    assert not server.calls("ListRhoVersions")
    assert [next(versions).version for _ in range(2)] == [7, 6]
    assert len(server.calls("ListRhoVersions")) == 1
    assert [v.version for v in versions] == [5, 4, 3, 2, 1]
    assert len(server.calls("ListRhoVersions")) == 3
    newest = next(namespace.versions(page_size=1))
    assert (newest.committer, dict(newest.metadata), newest.entries[0].key) == ("c", {"a": "b"}, "rho")
    assert newest.commit_time == moment((TIME_S + 7) * 1_000_000)


def test_a_namespace_that_does_not_exist(namespace) -> None:
    with pytest.raises(NotFound, match="does not exist") as caught:
        namespace.read()
    assert caught.value.what == "namespace"
    assert caught.value.request_id == "req-1"


def test_numbers_that_changed_on_the_way_are_found(server, namespace, other) -> None:
    namespace.commit({"rho": rho()}, expected_version=0)
    held = server.namespaces["agent-7"].versions[1]["rho"].matrix
    held.data = bytes([held.data[0] ^ 1]) + held.data[1:]
    with pytest.raises(RhoCorrupt):
        other.read().verify()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda reply: b"\xff\xff\xff",
        lambda reply: reply.replace(b"rho", b"\xff\xfe\xfd"),
        lambda reply: b"\x30\x01",  # not_modified, which nobody asked about
        lambda reply: reply.replace(bytes([64, 64]), bytes([64, 63])),  # the shape
    ],
)
def test_an_answer_that_is_none_is_an_error_of_ours(server, namespace, other, spoil) -> None:
    namespace.commit({"rho": rho()}, expected_version=0)
    right = server.GetRho
    server.GetRho = lambda request: spoil(right(request))
    with pytest.raises(UnexpectedStatus, match="GetRho"):
        other.read()


def test_health_and_server_info(client) -> None:
    health = client.health("n")
    assert health.ok
    assert health.rho[0].namespace == "n"
    assert health.rho[0].verify_time is None
    assert health.rho[0].certificate is None
    assert health.latencies[0].p95_s == 0.002
    assert health.latencies[0].bound_s == 0.06
    assert health.components[0].detail == "small"
    assert health.start_time == datetime.fromtimestamp(TIME_S, UTC)
    info = client.server_info()
    assert info.limits["message_bytes_max"] == 80 << 20
    assert info.services == ("sfm.v1.RhoStore",)
