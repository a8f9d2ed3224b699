"""normalized: what it answers is a density matrix, and it leaves one alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sfm_grpc.client import normalized
from sfm_grpc.client.density import simplex

SQUARES = st.integers(1, 8).flatmap(
    lambda n: hnp.arrays(
        np.float64, (n, n), elements=st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda x: x if abs(x) > 1e-6 else 0.0)
    )
)


def noisy(seed: int, d: int = 64, noise: float = 0.05) -> np.ndarray:
    """A density matrix plus symmetric noise: eigenvalues of either sign."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(d, 4))
    n = rng.normal(size=(d, d))
    a = a @ a.T
    return a / np.trace(a) + noise * (n + n.T) / d


@given(SQUARES, st.booleans())
def test_symmetric_trace_one_and_idempotent_bit_for_bit(array, project) -> None:
    if not np.trace(array) > 1e-3:
        return
    rho = normalized(array, project=project)
    assert rho.dtype == np.float64
    assert np.array_equal(rho, rho.T)
    assert abs(math.fsum(np.diagonal(rho)) - 1) <= 4 * 2.0**-53 * max(1.0, np.abs(np.diagonal(rho)).sum())
    assert normalized(rho, project=project).tobytes() == rho.tobytes()
    if project:
        assert np.linalg.eigvalsh(rho)[0] >= -1e-12 * max(1.0, len(rho))


@pytest.mark.parametrize("d", [2, 64, 384])
def test_projection_is_the_nearest_density_matrix(d: int) -> None:
    given_ = noisy(1, d) if d > 2 else np.array([[0.9, 0.6], [0.6, 0.1]])
    rho = normalized(given_, project=True)
    start = normalized(given_)
    assert np.linalg.eigvalsh(start)[0] < -1e-4
    assert np.linalg.eigvalsh(rho)[0] > -1e-14
    distance = np.linalg.norm(rho - start)
    # The obstacle angle: from the nearest point of a convex set every other point lies on the far side.
    for seed in range(20):
        other = normalized(noisy(seed, d, 0.0))
        assert np.vdot(start - rho, other - rho) <= 1e-12
        assert np.linalg.norm(other - start) >= distance - 1e-12


def test_the_example_of_smolin_gambetta_smith() -> None:
    """PRL 108, 070502, figure 1: {3/5, 1/2, 7/20, 1/10, −11/20} → {9/20, 7/20, 1/5, 0, 0}."""
    np.testing.assert_allclose(
        simplex(np.array([3 / 5, 1 / 2, 7 / 20, 1 / 10, -11 / 20])), [9 / 20, 7 / 20, 1 / 5, 0, 0], atol=1e-15
    )


@settings(max_examples=200)
@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-100, 100)))
def test_simplex(values) -> None:
    nearest = simplex(values)
    assert (nearest >= 0).all()
    assert math.isclose(nearest.sum(), 1.0, rel_tol=1e-11)
    order = np.argsort(values)
    assert (np.diff(nearest[order]) >= 0).all()


@pytest.mark.parametrize("d", [255, 256, 257, 600])
def test_blocks_do_not_show(d: int) -> None:
    array = np.random.default_rng(d).normal(size=(d, d)) + d * np.eye(d)
    assert normalized(array).tobytes() == ((array + array.T) * 0.5 / math.fsum(np.diagonal(array))).tobytes()
    assert normalized(np.asfortranarray(array)).tobytes() == normalized(array).tobytes()
    assert normalized(array).flags.c_contiguous


def test_a_density_matrix_is_left_alone_and_copied() -> None:
    rho = normalized(noisy(2, noise=0.0), project=True)
    again = normalized(rho, project=True)
    assert again is not rho
    assert not np.shares_memory(again, rho)
    assert again.tobytes() == rho.tobytes()


def test_round_off_below_zero_is_no_reason_to_project() -> None:
    """A rank-one matrix has eigenvalues of −1e-17: they are noise, and what a writer sent stays what was sent."""
    v = np.random.default_rng(0).normal(size=(300, 1))
    rho = normalized(v @ v.T)
    assert normalized(rho, project=True).tobytes() == rho.tobytes()


def test_any_real_array_goes_in() -> None:
    np.testing.assert_array_equal(normalized([[1, 2], [0, 3]]), [[0.25, 0.25], [0.25, 0.75]])
    assert normalized(np.eye(3, dtype="<f4")).dtype == np.float64
    np.testing.assert_array_equal(normalized(np.asfortranarray(np.arange(16.0).reshape(4, 4))).trace(), 1.0)
    assert normalized(np.eye(4) * 1e300).trace() == 1.0
    read_only = np.eye(2)
    read_only.flags.writeable = False
    normalized(read_only, project=True)


@pytest.mark.parametrize(
    ("array", "problem"),
    [
        (np.zeros((2, 2)), "trace is 0"),
        (-np.eye(2), "trace is -2"),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), r"nan at \[0, 1\]"),
        (np.array([[1.0, 0.0], [0.0, -np.inf]]), r"-inf at \[1, 1\]"),
        (np.eye(2) * 1.7e308, "trace is inf"),
        (np.array([[1e-300, 1e10], [1e10, 0.0]]), "overflows"),
        (np.ones((2, 3)), r"shape \(2, 3\)"),
        (np.ones(4), r"shape \(4,\)"),
        (np.ones((0, 0)), r"shape \(0, 0\)"),
        (np.eye(2, dtype=complex), "complex128 is not real"),
        ("rho", "shape"),
    ],
)
def test_what_cannot_be_normalized(array, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        normalized(array)
