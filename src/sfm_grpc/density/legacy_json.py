"""Untrusted JSON that means a matrix: parsing without surprises, and the parts the predecessor's forms consist of.

Every fault is a MatrixMalformed. Parsing holds the GIL; it serves migrations and clients, no request path.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import sys
from typing import Any, NoReturn

import numpy as np

from sfm_grpc.density.matrix import from_array
from sfm_grpc.errors import MatrixMalformed
from sfm_grpc.model import Dtype, Kind, Matrix

_DTYPES = {"float64": Dtype.FLOAT64, "<f8": Dtype.FLOAT64, "float32": Dtype.FLOAT32, "<f4": Dtype.FLOAT32}


def parsed(text: str, characters_max: int) -> object:
    """The JSON value. Duplicate keys, NaN and Infinity, numbers beyond double precision and deep nesting are refused."""
    if len(text) > characters_max:
        raise MatrixMalformed(problem=f"{len(text)} characters of JSON, at most {characters_max} are read")
    try:
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refused_constant, parse_float=_finite, parse_int=_integer
        )
    except json.JSONDecodeError as error:
        raise MatrixMalformed(problem=f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise MatrixMalformed(problem="the JSON is nested too deeply; a matrix is a list of rows") from None


def matrix_of_lists(rows: list[Any], dtype: Dtype, bytes_max: int, dimension_max: int) -> Matrix:
    """[[1.0, …], …] as a dense matrix of `dtype`. A number that `dtype` cannot hold exactly as it was parsed is refused."""
    width = len(rows[0]) if rows and isinstance(rows[0], list) else 0
    shape = shape_of([len(rows), width], dimension_max)
    _check_size(shape, dtype, bytes_max)
    numbers = np.empty(shape, dtype=np.float64)
    for index, row in enumerate(rows):
        if not isinstance(row, list):
            raise MatrixMalformed(problem=f"row {index} is not a list of numbers")
        if len(row) != width:
            raise MatrixMalformed(problem=f"ragged: row {index} has {len(row)} numbers, row 0 has {width}")
        types = {type(value) for value in row}
        if types != {float}:
            _check_row(row, index, types)
        numbers[index] = row
    return from_array(_in(dtype, numbers), kind=Kind.GENERIC)


def binary_of(data: object, shape: tuple[int, int], dtype: Dtype, bytes_max: int) -> bytes:
    """Base64 of exactly the raw C-order bytes that shape and dtype take."""
    expected = _check_size(shape, dtype, bytes_max)
    if not isinstance(data, str):
        raise MatrixMalformed(problem="data is not base64 text")
    if len(data) != (expected + 2) // 3 * 4:
        raise MatrixMalformed(problem=f"{len(data)} characters of base64, {expected} bytes take {(expected + 2) // 3 * 4}")
    try:
        numbers = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise MatrixMalformed(problem="data is not base64 (RFC 4648, with padding, no line breaks)") from None
    if len(numbers) != expected:
        raise MatrixMalformed(problem=f"{len(numbers)} bytes of numbers, shape and dtype take {expected}")
    return numbers


def dtype_named(name: object) -> Dtype:
    """`float64` or `float32`, also by numpy's short names."""
    dtype = _DTYPES.get(name) if isinstance(name, str) else None
    if dtype is None:
        raise MatrixMalformed(problem=f"dtype {str(name)[:40]!r} is not float64 or float32")
    return dtype


def shape_of(value: object, dimension_max: int) -> tuple[int, int]:
    """[rows, columns], each from 1 to `dimension_max`."""
    if not isinstance(value, list) or len(value) != 2 or any(type(number) is not int for number in value):
        raise MatrixMalformed(problem=f"shape is {str(value)[:60]}, it must be [rows, columns]")
    rows, columns = value
    if rows < 1 or columns < 1:
        raise MatrixMalformed(problem=f"shape [{rows}, {columns}]: rows and columns must be at least 1")
    if max(rows, columns) > dimension_max:
        raise MatrixMalformed(problem=f"shape [{rows}, {columns}]: rows and columns may be at most {dimension_max}")
    return rows, columns


def _check_row(row: list[Any], index: int, types: set[type]) -> None:
    """A row that is not all floats: integers pass where double precision holds them exactly."""
    if not types <= {float, int}:
        wrong = next(column for column, value in enumerate(row) if type(value) not in {float, int})
        raise MatrixMalformed(problem=f"[{index}, {wrong}] is not a number")
    for value in row:
        if abs(value) > 2**53 and (abs(value) > sys.float_info.max or int(float(value)) != value):
            raise MatrixMalformed(
                problem=f"{str(value)[:40]} has no exact double; write it with a decimal point to have it rounded"
            )


def _check_size(shape: tuple[int, int], dtype: Dtype, bytes_max: int) -> int:
    expected = shape[0] * shape[1] * dtype.numpy.itemsize
    if expected > bytes_max:
        raise MatrixMalformed(problem=f"the JSON promises {expected} bytes of numbers, at most {bytes_max} are allowed")
    return expected


def _in(dtype: Dtype, numbers: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.floating]]:
    """The parsed doubles rounded to `dtype`: the decimal text of a float32 parses to a double that rounds back to it."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = numbers.astype(dtype.numpy)
    if not np.isfinite(rounded).all():
        raise MatrixMalformed(problem=f"a number is beyond the range of {dtype.label}")
    return rounded


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MatrixMalformed(problem=f"the JSON key {twice[:40]!r} appears twice")
    return value


def _refused_constant(token: str) -> NoReturn:
    raise MatrixMalformed(problem=f"{token} is not JSON and not a number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise MatrixMalformed(problem=f"{text[:40]} is beyond double precision")
    return value


def _integer(text: str) -> int | float:
    """An integer of any reasonable length; -0 is minus zero, as a number would be."""
    if text == "-0":
        return -0.0
    if len(text) > 310:  # the largest double has 309 digits
        raise MatrixMalformed(problem=f"{text[:40]}… has {len(text)} digits")
    return int(text)
