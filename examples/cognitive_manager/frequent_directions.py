"""Frequent Directions: the directions of everything seen so far in ℓ rows, however long the stream (Liberty, KDD 2013).

With A all rows so far and B the ℓ×d sketch: 0 ⪯ AᵀA − BᵀB and ‖AᵀA − BᵀB‖₂ ≤ 2‖A‖²_F/ℓ. The sketch is its own whole state: rows
that are zero are free, so that whoever reads it from the store goes on where the last writer stopped.
"""

from __future__ import annotations

import numpy as np

from examples.cognitive_manager.stream import FloatArray

SKETCH_ROWS = 64


def start(dimension: int) -> FloatArray:
    """ℓ free rows."""
    return np.zeros((SKETCH_ROWS, dimension))


def absorb(sketch: FloatArray, rows: FloatArray) -> FloatArray:
    """The sketch after k more rows, as a new array."""
    grown = sketch.copy()
    free = _first_free(grown)
    for row in rows:
        grown[free] = row
        free += 1
        if free == len(grown):
            grown = _shrunk(grown)
            free = _first_free(grown)
    return grown


def error_bound(sketch: FloatArray, seen: int) -> float:
    """What ‖AᵀA − BᵀB‖₂ is at most after `seen` rows of length one."""
    return 2 * seen / len(sketch)


def _first_free(sketch: FloatArray) -> int:
    return int(np.count_nonzero(sketch.any(axis=1)))


def _shrunk(sketch: FloatArray) -> FloatArray:
    """Takes σ²_{ℓ/2} from every squared singular value: at least half of the rows become zero, the strong directions stay."""
    _, values, directions = np.linalg.svd(sketch, full_matrices=False)
    middle = values[len(sketch) // 2 - 1]
    # (σ − m)(σ + m), as σ² − m² would lose digits; never below zero.
    kept = np.sqrt(np.maximum(values - middle, 0.0) * (values + middle))
    return np.asarray(kept[:, None] * directions, dtype=np.float64)
