"""ρ as an exponential moving average of what was seen: the manager's attention, as a density matrix.

Only sums and products of single numbers, in a fixed order, and no BLAS: whoever replays the same batches in the same order gets
the same bits, on any machine, with any number of threads. The final check of the demo rests on that.
"""

from __future__ import annotations

import numpy as np

from examples.cognitive_manager.stream import FloatArray
from sfm_grpc.client import normalized

KEPT, ADDED = 0.95, 0.05

STEP_MAX = ADDED * 2**0.5
"""No honest step is longer: ‖ρ' − ρ‖_F = 0.05 ‖BᵀB/k − ρ‖_F, and two density matrices are at most √2 apart."""


def start(dimension: int) -> FloatArray:
    """I/d: nothing seen, every direction alike."""
    return np.eye(dimension) / dimension


def follow(rho: FloatArray, rows: FloatArray) -> FloatArray:
    """ρ' = 0.95 ρ + 0.05 BᵀB/k for the k×d batch B of unit rows, as a new array with the trace that rounding left put right."""
    gram, product = np.zeros_like(rho), np.empty_like(rho)
    for row in rows:
        gram += np.multiply.outer(row, row, out=product)
    gram *= ADDED / len(rows)
    return normalized(KEPT * rho + gram)
