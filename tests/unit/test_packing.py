"""Half of a symmetric matrix is stored: what is unpacked is what was packed, bit for bit, whatever its bits mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfm_grpc.density.matrix import from_array
from sfm_grpc.model import Kind, Matrix
from sfm_grpc.storage.postgres import packing
from sfm_grpc.storage.postgres.packing import Packing
from tests.support.matrices import density, sketch

Bits = npt.NDArray[Any]
WIDTHS = {"<f8": "<u8", "<f4": "<u4"}
UPPER = {"<f8": Packing.UPPER_8, "<f4": Packing.UPPER_4}

# Around the least that is packed, and around whole numbers of strips.
sizes = st.one_of(st.integers(1, 330), st.sampled_from([127, 128, 129, 191, 192, 193, 255, 256, 257]))
dtypes = st.sampled_from(sorted(WIDTHS))


def any_bits(n: int, dtype: str, seed: int, *, symmetric: bool) -> npt.NDArray[Any]:
    """Any numbers at all: NaNs of every kind, infinities, both zeros, the smallest there are."""
    bits = np.frombuffer(np.random.default_rng(seed).bytes(n * n * int(dtype[-1])), WIDTHS[dtype]).reshape(n, n)
    if symmetric:
        bits = np.triu(bits) | np.triu(bits, 1).T
    return np.ascontiguousarray(bits).view(dtype)


def matrix_of(array: npt.NDArray[Any]) -> Matrix:
    return from_array(array, kind=Kind.GENERIC)


def round_trip(array: npt.NDArray[Any]) -> tuple[Packing, int]:
    """How it was stored, and in how many bytes; it came back as it was."""
    how, stored = packing.pack(matrix_of(array))
    assert bytes(packing.unpack(how, bytes(stored))) == array.tobytes()
    return how, len(stored)


@settings(deadline=None)
@given(sizes, dtypes, st.integers(0, 2**32), st.booleans())
def test_whatever_the_bits_are_they_come_back(n: int, dtype: str, seed: int, symmetric: bool) -> None:
    how, size = round_trip(any_bits(n, dtype, seed, symmetric=symmetric))
    assert how is (UPPER[dtype] if symmetric and n >= 128 else Packing.WHOLE)
    assert size <= n * n * int(dtype[-1])


@settings(deadline=None)
@given(st.integers(128, 330), dtypes, st.integers(0, 2**32), st.data())
def test_one_bit_off_symmetry_is_kept(n: int, dtype: str, seed: int, data: st.DataObject) -> None:
    array = any_bits(n, dtype, seed, symmetric=True)
    row, column = data.draw(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))
    array.view(WIDTHS[dtype])[row, column] ^= 1 << data.draw(st.integers(0, 8 * int(dtype[-1]) - 1))
    how, _ = round_trip(array)
    # Within a block on the diagonal nothing is left out, so there it makes no difference.
    assert how is (UPPER[dtype] if row // 64 == column // 64 else Packing.WHOLE)


@pytest.mark.parametrize("n", [127, 128, 129, 191, 192, 193, 1024])
@pytest.mark.parametrize("dtype", sorted(WIDTHS))
def test_a_density_matrix_takes_little_more_than_half(n: int, dtype: str) -> None:
    how, size = round_trip(density(n, dtype=dtype))
    whole = n * n * int(dtype[-1])
    assert how is (UPPER[dtype] if n >= 128 else Packing.WHOLE)
    assert size <= (whole * (0.5 + 32 / n) if n >= 128 else whole)


def test_zero_and_minus_zero_are_equal_and_differ() -> None:
    array = np.zeros((192, 192))
    array[3, 190] = -0.0
    assert (array == array.T).all()
    assert round_trip(array)[0] is Packing.WHOLE
    array[190, 3] = -0.0
    assert round_trip(array)[0] is Packing.UPPER_8


@pytest.mark.parametrize("shape", [(128, 129), (129, 128), (1, 4096), (256, 4)])
def test_what_is_not_square_is_stored_as_it_is(shape: tuple[int, int]) -> None:
    assert round_trip(sketch(*shape)) == (Packing.WHOLE, shape[0] * shape[1] * 8)


@settings(deadline=None)
@given(st.sampled_from([*Packing, 3, -1]), st.binary(min_size=9, max_size=31))
def test_what_is_not_what_it_says_comes_back_as_it_is(how: int, stored: bytes) -> None:
    assert bytes(packing.unpack(how, stored)) == stored or how in (Packing.UPPER_8, Packing.UPPER_4)
