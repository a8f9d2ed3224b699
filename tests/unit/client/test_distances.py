"""Distances: known values, bounds that any two states obey, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfm_grpc.client import Factor, normalized
from sfm_grpc.client.distances import entropy, fidelity, frobenius, purity, trace_distance

SEEDS = st.integers(0, 2**32 - 1)
DIMENSIONS = st.integers(1, 12)


def state(seed: int, d: int, rank: int | None = None) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(d, rank or d))
    return normalized(a @ a.T)


def pure(vector) -> np.ndarray:
    v = np.asarray(vector, float).reshape(-1, 1)
    return v @ v.T / float(np.vdot(v, v))


def rotation(seed: int, d: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


MIXED = np.eye(2) / 2
ZERO, ONE, PLUS = pure([1, 0]), pure([0, 1]), pure([1, 1])


@pytest.mark.parametrize(
    ("measure", "a", "b", "value"),
    [
        (trace_distance, ZERO, ONE, 1.0),
        (trace_distance, ZERO, PLUS, math.sqrt(0.5)),
        (trace_distance, ZERO, MIXED, 0.5),
        (trace_distance, MIXED, MIXED, 0.0),
        (frobenius, ZERO, ONE, math.sqrt(2)),
        (frobenius, ZERO, MIXED, math.sqrt(0.5)),
        (fidelity, ZERO, ONE, 0.0),
        (fidelity, ZERO, ZERO, 1.0),
        (fidelity, ZERO, PLUS, 0.5),  # the squared convention; the other one says √½
        (fidelity, ZERO, MIXED, 0.5),
        (fidelity, np.diag([0.9, 0.1]), np.diag([0.5, 0.5]), (math.sqrt(0.45) + math.sqrt(0.05)) ** 2),
    ],
)
def test_known_values_of_two(measure, a, b, value) -> None:
    assert measure(a, b) == pytest.approx(value, abs=1e-12)
    assert measure(b, a) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("d", [1, 2, 7, 64])
def test_known_values_of_one(d: int) -> None:
    mixed, single = np.eye(d) / d, pure(np.arange(1, d + 1))
    assert purity(mixed) == pytest.approx(1 / d)
    assert purity(single) == pytest.approx(1.0)
    assert entropy(mixed) == pytest.approx(math.log(d))
    assert entropy(mixed, "bits") == pytest.approx(math.log2(d))
    assert entropy(single) == pytest.approx(0.0, abs=1e-12)
    assert entropy(np.diag([0.5, 0.25, 0.25]), unit="bits") == pytest.approx(1.5)


@given(SEEDS, SEEDS, DIMENSIONS, st.integers(1, 12), st.integers(1, 12))
def test_bounds_symmetry_and_fuchs_van_de_graaf(a, b, d, rank_a, rank_b) -> None:
    rho, sigma = state(a, d, rank_a), state(b, d, rank_b)
    distance, overlap = trace_distance(rho, sigma), fidelity(rho, sigma)
    assert -1e-12 <= distance <= 1 + 1e-12
    assert 0 <= overlap <= 1 + 1e-12
    assert 1 - math.sqrt(overlap) <= distance + 1e-7
    assert distance <= math.sqrt(max(0.0, 1 - overlap)) + 1e-6
    assert fidelity(sigma, rho) == pytest.approx(overlap, abs=1e-9)
    assert trace_distance(sigma, rho) == pytest.approx(distance, abs=1e-12)
    norm = frobenius(rho, sigma)
    assert norm <= 2 * distance + 1e-12
    assert 2 * distance <= math.sqrt(d) * norm + 1e-12
    assert 1 / d - 1e-12 <= purity(rho) <= 1 + 1e-12
    assert -1e-12 <= entropy(rho) <= math.log(d) + 1e-9
    assert entropy(rho) >= -math.log(purity(rho)) - 1e-9  # Rényi's order


@given(SEEDS, SEEDS, st.integers(2, 10))
def test_triangle_and_itself(a, b, d) -> None:
    rho, sigma, tau = state(a, d), state(b, d), state(a ^ b ^ 1, d)
    for measure in (trace_distance, frobenius):
        assert measure(rho, tau) <= measure(rho, sigma) + measure(sigma, tau) + 1e-12
        assert measure(rho, rho) == 0
    assert fidelity(rho, rho) == pytest.approx(1.0, abs=1e-9)


@given(SEEDS, SEEDS, SEEDS, st.integers(2, 10))
def test_a_rotation_changes_nothing(a, b, c, d) -> None:
    rho, sigma, q = state(a, d), state(b, d), rotation(c, d)
    turned = [q @ m @ q.T for m in (rho, sigma)]
    for measure in (trace_distance, frobenius, fidelity):
        assert measure(*turned) == pytest.approx(measure(rho, sigma), abs=1e-9)
    for measure in (purity, entropy):
        assert measure(turned[0]) == pytest.approx(measure(rho), abs=1e-9)


@settings(max_examples=60)
@given(SEEDS, SEEDS, st.integers(2, 12))
def test_pure_states(a, b, d) -> None:
    u, v = (np.random.default_rng(s).normal(size=d) for s in (a, b))
    overlap = float((u @ v) ** 2 / ((u @ u) * (v @ v)))
    assert fidelity(pure(u), pure(v)) == pytest.approx(overlap, abs=1e-9)
    assert trace_distance(pure(u), pure(v)) == pytest.approx(math.sqrt(max(0.0, 1 - overlap)), abs=1e-7)


@given(SEEDS, SEEDS, st.integers(1, 20), st.integers(1, 6), st.integers(1, 6), st.floats(-200, 200))
def test_factors_are_what_they_mean(a, b, d, k, m, scale) -> None:
    s = np.random.default_rng(a).normal(size=(k, d)) * 10.0**scale
    t = np.random.default_rng(b).normal(size=(m, d)).astype("<f4")
    left, right = Factor(s), Factor(t)
    for measure in (trace_distance, frobenius, fidelity):
        expected = measure(left.dense(), right.dense())
        assert measure(left, right) == pytest.approx(expected, abs=1e-7)
        assert measure(left, right.dense()) == pytest.approx(expected, abs=1e-7)
    assert purity(left) == pytest.approx(purity(left.dense()), abs=1e-12)
    assert entropy(left) == pytest.approx(entropy(left.dense()), abs=1e-9)


def test_a_factor_is_never_made_dense() -> None:
    """d = 100 000 would be 80 GB."""
    s, t = (np.random.default_rng(i).normal(size=(4, 100_000)) for i in range(2))
    assert 0.9 < trace_distance(Factor(s), Factor(t)) <= 1 + 1e-12
    assert fidelity(Factor(s), Factor(s)) == pytest.approx(1.0)
    assert 0.25 <= purity(Factor(s)) < 0.3


def test_float32_and_integers_go_in() -> None:
    assert trace_distance(ZERO.astype("<f4"), np.array([[0, 0], [0, 1]])) == 1.0


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: trace_distance(MIXED, np.eye(3) / 3), "2×2 and 3×3"),
        (lambda: fidelity(Factor(np.ones((1, 2))), Factor(np.ones((1, 3)))), "2×2 and 3×3"),
        (lambda: purity(np.ones((2, 3))), r"square.*goes in as Factor"),
        (lambda: entropy(np.eye(2, dtype=complex)), "not real"),
        (lambda: entropy(MIXED, "dits"), "neither 'nats' nor 'bits'"),
        (lambda: purity(Factor(np.zeros((2, 2)))), "not all zero"),
        (lambda: purity(Factor(np.ones(3))), "k×d"),
    ],
)
def test_what_is_no_state(call, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        call()
