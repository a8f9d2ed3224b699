"""Matrices from untrusted parts: every way the parts can disagree, and numpy in and out."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sfm_grpc.density.matrix import checked_matrix, dense, digest_of, from_array, from_doubles, step_norm
from sfm_grpc.errors import MatrixMalformed
from sfm_grpc.model import Dtype, Kind, Layout, Matrix

EYE = np.eye(3) / 3
PARTS: dict[str, Any] = {
    "kind": Kind.DENSITY,
    "layout": Layout.DENSE,
    "dtype": Dtype.FLOAT64,
    "shape": (3, 3),
    "numbers": EYE.tobytes(),
    "dimension_max": 8,
}


def generic(array: np.ndarray) -> Matrix:
    return from_array(array, kind=Kind.GENERIC)


def factor(array: np.ndarray) -> Matrix:
    return from_array(array, kind=Kind.DENSITY, layout=Layout.FACTOR)


@pytest.mark.parametrize("wrap", [bytes, memoryview, lambda b: memoryview(bytearray(b)), lambda b: memoryview(b).cast("d")])
def test_numbers_are_kept_as_they_are(wrap: Any) -> None:
    matrix = checked_matrix(**PARTS | {"numbers": wrap(EYE.tobytes())})
    assert bytes(matrix.numbers) == EYE.tobytes()
    assert matrix.array().tobytes() == EYE.tobytes()
    assert not matrix.array().flags.writeable


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"shape": ()}, "shape has 0 numbers"),
        ({"shape": (9,)}, "shape has 1 numbers"),
        ({"shape": (3, 3, 1)}, "shape has 3 numbers"),
        ({"shape": (0, 3)}, r"shape \[0, 3\]: rows and columns must be at least 1"),
        ({"shape": (3, -3)}, r"shape \[3, -3\]: rows and columns must be at least 1"),
        ({"shape": (9, 9)}, r"shape \[9, 9\]: rows and columns may be at most 8"),
        ({"shape": (2**62, 2**62), "dimension_max": 2**63}, "which take 170141183460469231731687303715884105728: truncated"),
        ({"shape": (3, 2)}, "a density matrix is square, this is 3×2"),
        ({"numbers": EYE.tobytes()[:-1]}, "71 bytes of numbers for 3×3 float64, which take 72: truncated by 1"),
        ({"numbers": EYE.tobytes() + b"xy"}, "74 bytes of numbers for 3×3 float64, which take 72: over-long by 2"),
        ({"numbers": b""}, "truncated by 72"),
        ({"dtype": Dtype.FLOAT32}, "over-long by 36"),
        ({"numbers": memoryview(bytes(144))[::2]}, "not one contiguous run"),
        ({"digest": b"x" * 31}, "digest has 31 bytes"),
        ({"digest": b"x" * 32}, "the digest sent with them says 7878"),
        ({"layout": Layout.FACTOR, "kind": Kind.GENERIC}, "a generic matrix is always dense"),
    ],
)
def test_parts_that_disagree_are_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MatrixMalformed, match=sentence) as refusal:
        checked_matrix(**PARTS | change, key="k")
    assert refusal.value.key == "k"


def test_a_digest_that_agrees_passes() -> None:
    checked_matrix(**PARTS, digest=hashlib.sha256(EYE.tobytes()).digest())
    assert digest_of(memoryview(EYE.tobytes())) == hashlib.sha256(EYE.tobytes()).digest()


def test_generic_matrices_and_factors_need_not_be_square() -> None:
    for parts in ({"kind": Kind.GENERIC}, {"layout": Layout.FACTOR}):
        assert checked_matrix(**PARTS | parts | {"shape": (1, 3), "numbers": bytes(24)}).dimension == 3


def test_doubles_become_either_dtype_without_changing() -> None:
    values = [1.0, -0.0, 0.5, 2.0**-149]
    for dtype in Dtype:
        matrix = from_doubles(values, kind=Kind.GENERIC, dtype=dtype, shape=(2, 2), dimension_max=9)
        assert matrix.array().astype(np.float64).tobytes() == np.array(values).tobytes()
        assert matrix.dtype is dtype
    special = from_doubles([np.nan, np.inf], kind=Kind.GENERIC, dtype=Dtype.FLOAT32, shape=(1, 2), dimension_max=9)
    assert np.array_equal(special.array(), [[np.nan, np.inf]], equal_nan=True)


@pytest.mark.parametrize("value", [0.1, 1e300, 2.0**-150, 16777217.0])
def test_a_double_that_is_no_float32_is_refused(value: float) -> None:
    with pytest.raises(MatrixMalformed, match=r"1 values are not float32, the first .* at \[1, 0\]; send float64"):
        from_doubles([1.0, 2.0, value, 4.0], kind=Kind.GENERIC, dtype=Dtype.FLOAT32, shape=(2, 2), dimension_max=9)


def test_doubles_are_counted() -> None:
    with pytest.raises(MatrixMalformed, match="3 values for 2×2 = 4 numbers"):
        from_doubles([1.0] * 3, kind=Kind.GENERIC, dtype=Dtype.FLOAT64, shape=(2, 2), dimension_max=9)


def test_an_array_in_order_is_not_copied() -> None:
    for dtype in (np.float64, np.float32):
        array = np.ones((2, 3), dtype)
        assert np.shares_memory(generic(array).array(), array)


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3).T, np.arange(6, dtype=">f8").reshape(2, 3), np.arange(24, dtype="f4").reshape(4, 6)[::2, ::3]],
)
def test_any_order_of_memory_means_the_same_numbers(array: np.ndarray) -> None:
    assert np.array_equal(generic(array).array(), array)
    assert generic(array).shape == array.shape


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.eye(2, dtype=np.int64), r"dtype int64 is not float64 or float32; convert it with array.astype"),
        (np.eye(2, dtype=np.float16), "dtype float16"),
        (np.eye(2, dtype=np.complex128), "dtype complex128 is not float64 or float32; send its real part"),
        (np.eye(2, dtype=np.longdouble), "is not float64 or float32"),
        (np.ones(4), r"shape \(4,\); a vector v is the matrix"),
        (np.ones((1, 2, 2)), r"shape \(1, 2, 2\)"),
        (np.float64(1), r"reshape\(1, 1\)"),
        (np.ones((0, 2)), "must be at least 1"),
    ],
)
def test_an_array_that_is_no_matrix_is_refused(array: np.ndarray, sentence: str) -> None:
    with pytest.raises(MatrixMalformed, match=sentence):
        generic(array)


def test_dense_is_what_is_meant() -> None:
    rng = np.random.default_rng(0)
    s = rng.standard_normal((4, 9)).astype(np.float32)
    for scale in (1.0, 1e30, 1e-30):
        scaled = s.astype(np.float64) * scale * (scale**4 if scale != 1 else 1)
        rho = dense(factor(scaled))
        assert np.allclose(rho, s.T.astype(float) @ s / np.linalg.norm(s.astype(float)) ** 2, atol=1e-15)
    assert dense(generic(s)).dtype == np.float64
    assert np.shares_memory(dense(generic(EYE)), EYE)
    for nothing in (0.0, np.nan, np.inf):
        with pytest.raises(MatrixMalformed, match="means no density matrix"):
            dense(factor(np.full((2, 2), nothing)))


def test_a_step_is_the_norm_of_the_difference() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 300, 300))
    a, b = (m / np.linalg.norm(m) for m in (a, b))
    pairs = [(a, b), (a.astype("f4"), b), (a, b.astype("f4")), (a.astype("f4"), b.astype("f4"))]
    for old, new in pairs:
        expected = np.linalg.norm(new.astype(float) - old.astype(float))
        assert step_norm(generic(old), generic(new)) == pytest.approx(expected, rel=1e-13)
    assert step_norm(generic(a), generic(a)) == 0.0


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 8e307])
def test_a_step_neither_overflows_nor_vanishes(scale: float) -> None:
    old, new = np.zeros((2, 3)), np.array([[1.0, 0, 0], [0, 1, 0]]) * scale
    assert step_norm(generic(old), generic(new)) == pytest.approx(np.sqrt(2) * scale, rel=1e-3)


def test_a_step_from_one_extreme_to_the_other_is_finite_where_the_norm_is() -> None:
    assert step_norm(generic(np.full((1, 1), 8e307)), generic(np.full((1, 1), -8e307))) == pytest.approx(1.6e308)


def test_a_step_between_factors_and_dense_matrices() -> None:
    rng = np.random.default_rng(2)
    s, t = rng.standard_normal((5, 200)), rng.standard_normal((7, 200))
    rho_s, rho_t = (dense(factor(m)) for m in (s, t))
    expected = np.linalg.norm(rho_s - rho_t)
    dense_t = from_array(rho_t, kind=Kind.DENSITY)
    assert step_norm(factor(s), factor(t)) == pytest.approx(expected, rel=1e-12)
    assert step_norm(factor(s), dense_t) == pytest.approx(expected, rel=1e-12)
    assert step_norm(dense_t, factor(s)) == pytest.approx(expected, rel=1e-12)
    assert step_norm(factor(s), factor(s)) == 0.0
    assert step_norm(factor(s), factor(-2 * s)) == pytest.approx(0.0, abs=1e-7)


def test_no_step_between_sizes_or_kinds() -> None:
    assert step_norm(generic(np.ones((2, 3))), generic(np.ones((3, 3)))) is None
    assert step_norm(generic(np.ones((2, 3))), generic(np.ones((2, 2)))) is None
    assert step_norm(generic(EYE), from_array(EYE, kind=Kind.DENSITY)) is None


FLOATS = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(width=64))


@given(FLOATS)
def test_any_numbers_come_back_bit_for_bit(array: np.ndarray) -> None:
    matrix = generic(array)
    again = checked_matrix(
        kind=matrix.kind,
        layout=matrix.layout,
        dtype=matrix.dtype,
        shape=matrix.shape,
        numbers=bytes(matrix.numbers),
        dimension_max=5,
        digest=digest_of(matrix.numbers),
    )
    assert again.array().tobytes() == array.tobytes()
