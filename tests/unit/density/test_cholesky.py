"""LAPACK by pointer: the right triangle, the right answer, no GIL, and no guess about its signature."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from sfm_grpc.density import cholesky, proof, scratch


@pytest.mark.parametrize("n", [1, 2, 3, 64, 257])
def test_it_factorizes_what_is_definite_and_nothing_else(n: int) -> None:
    a = np.random.default_rng(n).standard_normal((n, n))
    a = a @ a.T + np.eye(n)
    lower = np.linalg.cholesky(a)
    with scratch.square(n) as work:  # rows lie apart
        work[...] = a
        assert cholesky.factorizes(work)
        assert np.allclose(np.triu(work), lower.T)
        work[...] = a - (np.linalg.eigvalsh(a)[0] + 1e-6) * np.eye(n)
        assert not cholesky.factorizes(work)


def test_it_reads_the_upper_triangle_only() -> None:
    a = np.array([[1.0, 0.5], [np.nan, 1.0]])
    assert cholesky.factorizes(a)


@pytest.mark.parametrize("n", [4, 200])
@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e200])
@pytest.mark.parametrize("where", [(0, 1), (0, -1), (1, 2), (-2, -1), (0, 0), (1, 1), (-1, -1)])
def test_a_pivot_that_is_not_a_number_is_no_success(where: tuple[int, int], value: float, n: int) -> None:
    """Whatever LAPACK makes of it: the square of 1e200 is −∞ in the next pivot, and NaN in the one after."""
    a = np.eye(n)
    a[where] = value
    assert cholesky.factorizes(a) == (where[0] == where[1] and value == 1e200)


def test_a_workspace_of_another_shape_is_a_bug() -> None:
    for wrong in (
        np.eye(2, dtype=np.float32),
        np.ones((2, 3)),
        np.ones((4, 4)).T[:2, :],
        np.asfortranarray(np.arange(4.0).reshape(2, 2)),
    ):
        with pytest.raises(AssertionError):
            cholesky.factorizes(wrong)


@pytest.mark.parametrize(
    "signature",
    [
        "void (char *, long *, double *, int *, int *)",
        "void (char *, int *, float *, int *, int *)",
        "int (char *, int *, double *)",
        "",
    ],
)
def test_an_unknown_signature_is_refused(signature: str) -> None:
    with pytest.raises(ImportError, match="unknown signature"):
        cholesky._check_signature(signature)
    cholesky._check_signature("void (char *, int *, double *, int *, int *)")


def test_other_threads_run_meanwhile() -> None:
    """While one thread factorizes for tens of milliseconds, another must not wait for it."""
    n = 1500
    a = np.eye(n) + 1e-4
    cholesky.load()
    done = threading.Event()

    def factorize() -> None:
        while not done.is_set():
            cholesky.factorizes(a.copy())

    thread = threading.Thread(target=factorize)
    thread.start()
    try:
        ticks = 0
        until = time.perf_counter() + 0.3
        while time.perf_counter() < until:
            time.sleep(0.001)
            ticks += 1
    finally:
        done.set()
        thread.join()
    assert ticks > 60  # with the GIL held it would be one tick for each factorization, about ten


def test_the_margin_is_the_contract_s() -> None:
    n, trace, s = 256, 1.0, 1e-8
    assert proof.margin(n, trace, s) == pytest.approx(2 * (n + 4) * 2.0**-53 * (trace + n * s), rel=1e-11)
    shift = proof.roundoff_shift(n, trace)
    assert 2 * proof.margin(n, trace, shift) <= shift <= 2.0001 * proof.margin(n, trace, shift)
