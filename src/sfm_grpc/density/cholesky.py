"""LAPACK's Cholesky factorization without the GIL: the only place that knows scipy.

scipy's f2py wrapper holds the GIL for the whole factorization (15 ms at n = 1024, and the event loop with it). The same function
behind `scipy.linalg.cython_lapack` is reachable by pointer, and a ctypes call releases the GIL.

Importing scipy.linalg takes longer than importing all of ours, so it waits for `load`, or for the first matrix.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Callable

from sfm_grpc.density.matrix import FloatArray

_CAPSULE = "dpotrf"
_INT32_MAX = 2**31 - 1


def factorizes(a: FloatArray) -> bool:
    """Whether the Cholesky factorization of the finite `a` runs to completion. Overwrites `a`. Releases the GIL.

    `a` is n×n float64, row-major, rows may lie apart. Only its upper triangle is read, as numpy sees it: LAPACK sees columns, so
    it is the lower one there, and the faster one (1.3 to 1.9 times).
    """
    rows, columns = a.shape
    between_rows, between_columns = a.strides
    if a.dtype.char != "d" or rows != columns or between_columns != 8 or between_rows < 8 * rows:
        raise AssertionError(f"not a square row-major float64 workspace: {a.dtype} {a.shape} {a.strides}")
    n, leading, info = ctypes.c_int(rows), ctypes.c_int(between_rows // 8), ctypes.c_int(0)
    load()(b"L", ctypes.byref(n), a.__array_interface__["data"][0], ctypes.byref(leading), ctypes.byref(info))
    if info.value < 0:
        raise AssertionError(f"dpotrf refused its argument {-info.value}")
    # An older OpenBLAS takes the root of a NaN pivot and goes on. From finite numbers a pivot cannot become +∞, and a NaN makes
    # all that follows in its row NaN, hence every later pivot: the last one tells.
    return info.value == 0 and math.isfinite(a[-1, -1])


@functools.cache
def load() -> Callable[..., None]:
    """LAPACK's dpotrf as a callable that releases the GIL."""
    from scipy.linalg import cython_lapack

    capsule = cython_lapack.__pyx_capi__[_CAPSULE]
    get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    signature = get_name(capsule)
    _check_signature(signature.decode())
    # (uplo, n, a, lda, info): scipy's cython layer takes 32-bit integers whatever BLAS it was built with.
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    return prototype(get_pointer(capsule, signature))


def _check_signature(signature: str) -> None:
    """Raises ImportError unless the function takes what is passed above: a wrong guess would write over memory."""
    kinds = [part.strip().removeprefix("void (") for part in signature.rstrip(")").split(",")]
    double = len(kinds) == 5 and (kinds[2] == "double *" or kinds[2].endswith("cython_lapack_d *"))
    if not double or [kinds[0], kinds[1], kinds[3], kinds[4]] != ["char *", "int *", "int *", "int *"]:
        raise ImportError(f"scipy's {_CAPSULE} has the unknown signature {signature!r}; install scipy>=1.13")
