"""What both of Qdrant's libraries are told about a memory."""

from __future__ import annotations

import itertools
import uuid

import numpy as np
import pytest

from sfm_grpc.model import Between, Distance, MemoryFilter
from sfm_grpc.storage.vectors import points
from sfm_grpc.storage.vectors.points import INDEXED, Condition, Identities, scope_name
from tests.vectors.given import NOW_US, a_field, a_point, some_points, vectors

NAMES = ["", "a", "b", "ab", "ba", ":", "a:", ":a", "1:a", "2:a:b", "é", "e\u0301", "x" * 256]


def test_no_two_scopes_have_one_name() -> None:
    fields = [a_field(namespace, tenant=tenant, number=n) for tenant, namespace, n in itertools.product(NAMES, NAMES, (1, 2, 12))]
    assert len({scope_name(field) for field in fields}) == len(fields)


def test_no_two_memories_have_one_id() -> None:
    three = list(itertools.product(NAMES, NAMES, NAMES))
    assert len({Identities(a_field(namespace, tenant=tenant)).of(key) for tenant, namespace, key in three}) == len(three)


def test_an_id_is_a_uuid_and_stays_the_same() -> None:
    """Or everything that is indexed would be indexed once more."""
    assert Identities(a_field("agent-7", tenant="tenant")).of("key/1") == "17b1f1a0-ed2c-7f93-045f-f90d761f302f"
    identities = Identities(a_field("a"))
    assert str(uuid.UUID(identities.of("é"))) == identities.of("é")


def test_every_condition_is_about_a_field_that_is_indexed_and_kept() -> None:
    chosen = MemoryFilter("k", ("a", "b"), *[Between(0, 1)] * 3, box=(Between(1, 2),) * 8)
    conditions = points.living("s", chosen, NOW_US)
    assert {condition.field for condition in conditions} == set(INDEXED)
    kept = points.payload("s", a_point("k", coordinates=(1.0,) * 8))
    assert kept.keys() == {*INDEXED, "revision"}
    assert conditions[0] == Condition("scope", any_of=("s",))


def test_an_open_filter_asks_for_the_living_of_the_namespace_and_no_more() -> None:
    assert points.living("s", MemoryFilter(), 5) == [Condition("scope", any_of=("s",)), Condition("expire_time_us", above=5)]
    assert points.living("s", MemoryFilter(box=(Between(), Between())), 5)[2:] == [Condition("coordinates_count", any_of=(2,))]


def test_whole_numbers_are_kept_as_numbers_with_a_fraction_where_they_may_have_one() -> None:
    kept = points.payload("s", a_point("k", importance=1, coordinates=(2,)))
    assert {type(kept[name]) for name in ("importance", "c0")} == {float}
    assert {type(kept[name]) for name in ("revision", "create_time_us", "expire_time_us", "coordinates_count")} == {int}


@pytest.mark.parametrize("distance", Distance)
def test_vectors_are_taken_as_they_are_unless_they_are_too_short_for_a_cosine(distance: Distance) -> None:
    field = a_field(distance=distance)
    long, short = a_point("long", vectors(1)[0]), a_point("short", vectors(1)[0] * np.float32(1e-30))
    taken, refused = points.sift(field, [long, short])
    assert refused == []
    assert taken[0] is long
    if distance is Distance.COSINE:
        assert np.linalg.norm(np.frombuffer(taken[1].vector, "<f4")) == pytest.approx(1)
    else:
        assert taken[1] is short


def test_who_searches_by_what_cannot_be_compared_has_a_defect() -> None:
    for vector in (vectors(1, 7)[0], vectors(1)[0] * np.inf, np.full(8, np.nan, "<f4"), np.full(8, 1e19, "<f4")):
        with pytest.raises(AssertionError):
            points.sought(a_field(), vector.astype("<f4").tobytes())


def test_a_search_tries_harder_for_more_and_through_filters() -> None:
    assert points.effort(MemoryFilter(), 10) == points.Effort(128, wide=False)
    assert points.effort(MemoryFilter(key_prefix="k"), 10).wide
    assert points.effort(MemoryFilter(), 1000).beam == 2000


def test_nothing_is_sifted_out_of_nothing() -> None:
    assert points.sift(a_field(), []) == ([], [])
    assert points.sift(a_field(), some_points(30)) == (some_points(30), [])
