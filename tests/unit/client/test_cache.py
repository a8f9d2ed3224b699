"""What is kept stays within its budget and is never older than what replaced it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sfm_grpc.client import cache
from sfm_grpc.client.cache import Kept, selection_of
from sfm_grpc.client.records import Snapshot, empty_snapshot, frozen
from sfm_grpc.errors import VersionConflict


def snapshot(namespace: str = "n", version: int = 1, size: int = 1000, keys: tuple[str, ...] = ("a",)) -> Snapshot:
    message = bytes(size * len(keys))
    arrays = {
        k: np.frombuffer(memoryview(message)[i * size : (i + 1) * size], np.uint8).reshape(1, -1) for i, k in enumerate(keys)
    }
    certificates = dict.fromkeys(keys)
    return replace(
        empty_snapshot(namespace),
        version=version,
        matrices=frozen(arrays),
        certificates=frozen(certificates),
        put_versions=frozen({}),
    )


def test_the_newest_wins() -> None:
    kept = Kept(10_000)
    kept.keep(None, snapshot(version=3))
    kept.keep(None, snapshot(version=2))
    assert kept.find("n", None).version == 3
    kept.keep(None, snapshot(version=4))
    assert kept.find("n", None).version == 4
    assert kept.bytes == 1000


def test_the_least_recently_used_goes_first() -> None:
    kept = Kept(3000)
    for name in "abc":
        kept.keep(None, snapshot(name))
    kept.find("a", None)
    kept.keep(None, snapshot("d"))
    assert [kept.find(n, None) is not None for n in "abcd"] == [True, False, True, True]
    assert kept.bytes == 3000


def test_what_is_over_the_budget_is_not_kept_and_drives_nothing_out() -> None:
    kept = Kept(3000)
    kept.keep(None, snapshot("a"))
    kept.keep(None, snapshot("b", size=3001))
    assert kept.find("b", None) is None
    assert kept.find("a", None) is not None
    Kept(0).keep(None, snapshot("a"))


def test_a_small_array_costs_the_message_it_pins() -> None:
    kept = Kept(100_000)
    kept.keep(("a",), snapshot(keys=("a", "b", "c")).restricted(["a"]))
    assert kept.bytes == 3000
    kept.keep(None, snapshot("m", keys=("a", "b")))
    assert kept.bytes == 5000


def test_copies_and_empty_snapshots_have_a_cost_too() -> None:
    kept = Kept(100_000)
    own = np.ones((2, 2))
    kept.keep(None, replace(empty_snapshot("n"), version=1, matrices=frozen({"a": own[:1]})))
    assert kept.bytes == 32
    kept.keep(None, replace(empty_snapshot("e"), version=1))
    assert kept.find("e", None).version == 1


def test_the_whole_answers_for_a_part_if_it_is_newer() -> None:
    kept = Kept(100_000)
    kept.keep(("a",), snapshot(version=1))
    kept.keep(None, snapshot(version=2, keys=("a", "b")))
    assert kept.find("n", ("a",)).version == 2
    assert list(kept.find("n", ("a",)).matrices) == ["a"]
    assert kept.find("n", ("a", "c")) is None
    kept.keep(("a",), snapshot(version=3))
    assert kept.find("n", ("a",)).version == 3


def test_forget() -> None:
    kept = Kept(100_000)
    kept.keep(None, snapshot())
    kept.keep(("a",), snapshot())
    kept.keep(None, snapshot("other"))
    kept.saw("n", 7)
    kept.forget("n")
    assert (kept.find("n", None), kept.find("n", ("a",)), kept.newest_seen("n")) == (None, None, 0)
    assert kept.bytes == 1000


@pytest.mark.parametrize(
    ("about", "newest"), [({}, 500), ({"key": "k"}, 3), ({"field": "if_revision"}, 3)], ids=["rho", "a memory", "memories"]
)
def test_the_revision_of_a_memory_is_no_version(about, newest: int) -> None:
    kept = Kept(10_000)
    kept.saw("n", 3)
    kept.refused("n", VersionConflict(namespace="n", expected=1, current=500, committer="", commit_time_us=0, **about))
    assert kept.newest_seen("n") == newest


def test_versions_seen_are_bounded_by_namespaces(monkeypatch) -> None:
    monkeypatch.setattr(cache, "_NAMESPACES_MAX", 2)
    kept = Kept(0)
    for name in "abc":
        kept.saw(name, 1)
    kept.saw("b", 2)
    kept.saw("b", 1)
    kept.saw("d", 0)
    assert [kept.newest_seen(n) for n in "abcd"] == [0, 2, 1, 0]


@pytest.mark.parametrize(
    ("keys", "selection"), [(None, None), ("rho", ("rho",)), (["b", "a", "b"], ("a", "b")), (iter("ba"), ("a", "b"))]
)
def test_selections(keys, selection) -> None:
    assert selection_of(keys) == selection
