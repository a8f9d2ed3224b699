"""Watching and following: what arrives is what was committed, is kept, and is at hand without a call."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from sfm_grpc.client import (
    DeadlineExceeded,
    Draining,
    InvalidRequest,
    LimitExceeded,
    RhoCorrupt,
    UnexpectedStatus,
    Unreachable,
    VersionCompacted,
    VersionNotReached,
)
from tests.unit.client.small_server import TIME_S
from tests.unit.client.test_reads import rho


@pytest.fixture
def writer(connect: Any) -> Any:
    """The namespace as another client sees it."""
    return connect().namespace("n")


@pytest.fixture
def namespace(connect: Any) -> Any:
    return connect().namespace("n")


def committed(writer: Any, count: int, start: int = 0) -> list[np.ndarray]:
    sent = [rho(start + i) for i in range(count)]
    for place, array in enumerate(sent):
        writer.commit({"rho": array}, expected_version=start + place)
    return sent


def taken(watch: Any, count: int) -> list[Any]:
    with watch:
        return list(itertools.islice(watch, count))


def soon(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# ---- watch


def test_versions_come_in_order_with_what_their_commits_said(namespace, writer) -> None:
    sent = committed(writer, 3)
    told = taken(namespace.watch(0), 3)
    assert [s.version for s in told] == [1, 2, 3]
    for snapshot, array in zip(told, sent, strict=True):
        assert snapshot["rho"].tobytes() == array.tobytes()
        assert not snapshot["rho"].flags.writeable
        snapshot.verify()
    last = told[-1]
    assert (last.committer, dict(last.metadata), last.changed_keys, last.restored_version) == ("c", {"a": "b"}, ("rho",), 0)
    assert last.valid
    assert last.commit_time == datetime.fromtimestamp(TIME_S + 3, UTC)
    assert last.as_of_time == datetime.fromtimestamp(TIME_S + 103, UTC)


def test_without_a_version_it_begins_with_the_newest(namespace, writer) -> None:
    committed(writer, 3)
    assert [s.version for s in taken(namespace.watch(), 1)] == [3]


def test_it_asks_for_what_it_is_told(namespace, writer, server) -> None:
    writer.commit({"a": rho(), "b": rho(1)}, expected_version=0)
    [told] = taken(namespace.watch(0, ["b", "a"], newest_only=True, numbers=False), 1)
    [seen] = server.calls("WatchRho")
    assert (seen.request.after_version, list(seen.request.keys), seen.request.newest_only) == (0, ["a", "b"], True)
    assert (list(told), dict(told.matrices)) == (["a", "b"], {})
    assert seen.metadata["x-soma-client"] == "test"
    taken(namespace.watch(), 1)
    assert not server.calls("WatchRho")[-1].request.HasField("after_version")
    assert not server.calls("WatchRho")[-1].request.HasField("bookmark_interval")
    taken(namespace.watch(bookmark_interval_s=1.5), 1)
    with namespace.follow(bookmark_interval_s=1.5):
        intervals = [seen.request.bookmark_interval.ToMilliseconds() for seen in server.calls("WatchRho")[-2:]]
    assert intervals == [1500, 1500]


def test_what_has_arrived_does_not_travel_again_and_is_what_reads_are_as_new_as(namespace, writer, server) -> None:
    [sent] = committed(writer, 1)
    taken(namespace.watch(), 1)
    read = namespace.read()
    assert (read.modified, read["rho"].tobytes()) == (False, sent.tobytes())
    assert server.calls("GetRho")[-1].request.freshness.min_version == 1
    assert not namespace.read("rho").modified


def test_what_is_not_whole_is_not_taken_for_what_a_read_would_answer(namespace, writer, server) -> None:
    committed(writer, 1)
    taken(namespace.watch(0, ["other", "rho"]), 1)
    taken(namespace.watch(0, numbers=False), 1)
    assert namespace.read().modified
    assert server.calls("GetRho")[-1].request.known_version == 0


def test_bookmarks_are_not_shown_but_tell_how_true_it_is(connect, server, writer) -> None:
    committed(writer, 1)
    watch = connect().namespace("n").watch(1)
    assert watch.as_of_time is None
    committed(writer, 1, start=1)
    with watch:
        assert next(watch).version == 2
        assert watch.as_of_time >= datetime.fromtimestamp(TIME_S + 102, UTC)


@pytest.mark.parametrize(
    "error",
    [
        VersionCompacted(namespace="n", version=1, oldest=5, current=9),
        RhoCorrupt(namespace="n", version=1, key="rho", expected_digest="", found_digest=""),
    ],
)
def test_errors_are_raised_with_their_facts(namespace, writer, server, error) -> None:
    committed(writer, 1)
    server.ending.append(error)
    with namespace.watch(1) as watch, pytest.raises(type(error)) as caught:
        next(watch)
    assert caught.value.facts() == error.facts()
    assert caught.value.request_id == "req-1"


def test_a_server_that_came_back_from_a_backup_is_not_taken_for_the_old_one(namespace, writer, server) -> None:
    committed(writer, 3)
    namespace.read()
    del server.namespaces["n"].versions[2:]
    with namespace.watch(3) as watch, pytest.raises(VersionNotReached):
        next(watch)
    namespace.forget()
    committed(writer, 1, start=1)
    assert namespace.read().modified


def test_a_time_out_is_of_the_whole(namespace, writer) -> None:
    committed(writer, 1)
    with namespace.watch(timeout_s=0.2) as watch:
        assert next(watch).version == 1
        with pytest.raises(DeadlineExceeded):
            next(watch)


def test_what_is_closed_is_told_as_closed(namespace, writer) -> None:
    committed(writer, 1)
    watch = namespace.watch()
    assert next(watch).version == 1
    watch.close()
    with pytest.raises(UnexpectedStatus, match="CANCELLED"):
        next(watch)


def test_no_key_is_not_all_keys(namespace, server) -> None:
    for watching in (namespace.watch, namespace.follow):
        with pytest.raises(InvalidRequest, match="no key is named"):
            watching(keys=[])
    assert not server.seen


# ---- follow


def test_the_newest_is_at_hand_without_a_call(namespace, writer, server) -> None:
    committed(writer, 2)
    with namespace.follow() as follower:
        assert follower.snapshot.version == 2
        [sent] = committed(writer, 1, start=2)
        assert follower.wait(3, 20)["rho"].tobytes() == sent.tobytes()
        calls = len(server.seen)
        for _ in range(1000):
            assert follower.snapshot.version == 3
        assert len(server.seen) == calls
        soon(lambda: follower.as_of_time == datetime.fromtimestamp(TIME_S + 203, UTC))
        assert follower.age_s > 0
        assert follower.problem is None
        assert server.calls("WatchRho")[0].request.newest_only
    assert follower.snapshot.version == 3


def test_a_namespace_that_does_not_exist_is_empty_and_then_it_is_not(namespace, writer) -> None:
    with namespace.follow() as follower:
        assert (follower.snapshot.version, len(follower.snapshot)) == (0, 0)
        committed(writer, 1)
        assert follower.wait(1, 20).version == 1


def test_what_it_receives_is_what_reads_know(namespace, writer, server) -> None:
    committed(writer, 1)
    with namespace.follow():
        read = namespace.read()
    assert not read.modified


def test_it_goes_on_after_the_last_one_when_the_server_is_back(namespace, writer, server) -> None:
    committed(writer, 2)
    with namespace.follow() as follower:
        server.stop()
        soon(lambda: follower.problem is not None)
        assert isinstance(follower.problem, Unreachable | UnexpectedStatus)
        assert follower.snapshot.version == 2
        server.start()
        committed(writer, 1, start=2)
        assert follower.wait(3, 30).version == 3
        assert follower.problem is None
        assert server.calls("WatchRho")[-1].request.after_version == 2


@pytest.mark.parametrize(
    ("error", "after"),
    [
        (Draining(), 2),
        (RhoCorrupt(namespace="n", version=3, key="", expected_digest="", found_digest=""), 2),
        (VersionCompacted(namespace="n", version=3, oldest=7, current=9), None),
        (VersionNotReached(namespace="n", min_version=2, current=1), None),
    ],
)
def test_after_an_error_it_begins_again_where_it_can(namespace, writer, server, error, after) -> None:
    committed(writer, 2)
    with namespace.follow() as follower:
        server.ending.append(error)
        soon(lambda: len(server.calls("WatchRho")) == 2)
        committed(writer, 1, start=2)
        assert follower.wait(3, 20).version == 3
        request = server.calls("WatchRho")[1].request
        assert (request.after_version if request.HasField("after_version") else None) == after


def test_what_will_not_mend_itself_ends_it(namespace, writer, server) -> None:
    committed(writer, 1)
    with namespace.follow() as follower:
        server.ending.append(LimitExceeded(limit="keys_per_namespace_max", value=2, maximum=1))
        with pytest.raises(LimitExceeded):
            follower.wait(2, 20)
        with pytest.raises(LimitExceeded):
            _ = follower.snapshot


def test_entering_says_why_nothing_arrives(connect, server) -> None:
    follower = connect().namespace("n").follow(timeout_s=0.5)
    server.stop()
    with pytest.raises((Unreachable, DeadlineExceeded)), follower:
        pass
    server.start()


def test_waiting_has_an_end(namespace, writer) -> None:
    committed(writer, 1)
    with namespace.follow() as follower, pytest.raises(DeadlineExceeded):
        follower.wait(2, 0.1)


def test_before_it_is_entered_it_has_nothing_to_say(namespace) -> None:
    with pytest.raises(RuntimeError, match="context manager"):
        _ = namespace.follow().snapshot


def test_a_client_that_is_closed_ends_its_followers(connect, writer) -> None:
    committed(writer, 1)
    client = connect()
    with client.namespace("n").follow() as follower:
        client.close()
        with pytest.raises(RuntimeError, match="the client is closed"):
            follower.wait(2, 20)
