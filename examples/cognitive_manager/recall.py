"""Recall: what comes to mind at a vector. This is thinking, so it happens here and never in the data plane.

The data plane finds what is near, as geometry has it. How much of that matters now is weighed with ρ, the manager's attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from examples.cognitive_manager.stream import FloatArray
from sfm_grpc.client import SearchResult

SHORTLIST = 64
"""So many neighbours are worth weighing."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """A memory that came to mind."""

    name: str
    score: float
    cosine: float
    familiarity: float
    """d·vᵀρv: 1 while nothing was seen, more for directions that were seen often of late."""


def recall(near: SearchResult, rho: FloatArray, *, but: str, top: int = 5) -> list[Recalled]:
    """The `top` of the memories that a search found, with vectors, by cosine² × √familiarity, best first; `but` is no news."""
    found = [n for n in near if n.memory.key != but and n.memory.vector is not None]
    if not found:
        return []
    vectors = np.array([n.memory.vector for n in found], dtype=np.float64)
    cosines = np.array([n.score for n in found])
    familiarity = len(rho) * ((vectors @ rho) * vectors).sum(axis=1)
    scores = np.square(cosines) * np.sqrt(familiarity)
    best = np.argsort(-scores, kind="stable")[:top]
    return [Recalled(found[i].memory.key, float(scores[i]), float(cosines[i]), float(familiarity[i])) for i in best]
