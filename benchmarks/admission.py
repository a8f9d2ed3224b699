"""Full admission of a float64 ρ beside qiskit's `DensityMatrix.is_valid`."""

from __future__ import annotations

import importlib
from typing import Any

from threadpoolctl import threadpool_limits

from benchmarks.harness import Row, Samples, Section, faster, interleave, ms, repeats_for
from benchmarks.matrices import Array, density
from sfm_grpc.allocator import keep_large_blocks
from sfm_grpc.density.admission import Bounds, admit, certify
from sfm_grpc.density.matrix import checked_matrix
from sfm_grpc.model import Dtype, Enforcement, Kind, Layout, Matrix

_DIMENSIONS = (256, 384, 512, 768, 1024)
_TARGET = 25.0
_IN_A_ROW = 3


def run(*, quick: bool) -> Section:
    """Checks and proof at each size, without and with the SHA-256 that a certificate carries."""
    try:
        density_matrix = importlib.import_module("qiskit.quantum_info").DensityMatrix
    except ImportError as error:
        raise SystemExit("qiskit is not installed: `make bench` installs requirements/bench.txt") from error
    keep_large_blocks()
    rows: list[Row] = []
    as_it_comes: list[str] = []
    for n in _DIMENSIONS:
        # One BLAS thread for both: so the server runs. What the peer takes with a thread for each core is in the notes.
        with threadpool_limits(1, user_api="blas"):
            rows += _at(n, density_matrix, 1.5 if quick else 20.0)
        as_it_comes.append(f"n = {n}: {ms(_own_threads(n, density_matrix).median)}")
    return Section(
        "Admission: finite, Hermitian, trace, PSD proof beside qiskit DensityMatrix.is_valid",
        rows,
        [
            "proof: density.admission.certify. certificate: density.admission.admit, the proof and the SHA-256 beside it.",
            f"{_IN_A_ROW} in a row of each in turn, one BLAS thread for both. qiskit compares trace, asymmetry and eigenvalues",
            "with 1e-8; ours proves the bound. qiskit with a BLAS thread for each core: " + ", ".join(as_it_comes) + ".",
        ],
    )


def _at(n: int, density_matrix: Any, budget_s: float) -> list[Row]:
    numbers = density(n)
    matrix = sent(numbers)
    theirs = density_matrix(numbers)
    assert theirs.is_valid()
    cases = {"proof": lambda: prove(matrix), "certificate": lambda: admitted(matrix), "qiskit": theirs.is_valid}
    repeats = repeats_for(cases, budget_s, 9, 400) // _IN_A_ROW
    taken = interleave(cases, repeats, in_a_row=_IN_A_ROW)
    return [faster(f"{what}, n = {n}", taken[what], taken["qiskit"], _TARGET) for what in ("proof", "certificate")]


def _own_threads(n: int, density_matrix: Any) -> Samples:
    theirs = density_matrix(density(n))
    return interleave({"qiskit": theirs.is_valid}, 5, warmup=1)["qiskit"]


def sent(numbers: Array) -> Matrix:
    """The matrix as the server has it when it arrives: bytes."""
    return checked_matrix(
        kind=Kind.DENSITY,
        layout=Layout.DENSE,
        dtype=Dtype.FLOAT64,
        shape=numbers.shape,
        numbers=numbers.tobytes(),
        dimension_max=8192,
    )


def prove(matrix: Matrix) -> object:
    """All checks, without digest."""
    return certify(matrix, Bounds(), key="rho", enforcement=Enforcement.ENFORCE)


def admitted(matrix: Matrix) -> object:
    """All checks, digest and certificate: what a commit does before it is stored."""
    return admit(matrix, Bounds(), key="rho", enforcement=Enforcement.ENFORCE, now_us=0)
