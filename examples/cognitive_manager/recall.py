"""Recall: what comes to mind at a name. This is thinking, so it happens here and never in the data plane."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from examples.cognitive_manager.memories import FloatArray, Memories

_SHORTLIST = 64


@dataclass(frozen=True, slots=True)
class Recalled:
    """A memory that came to mind."""

    name: str
    score: float
    cosine: float
    familiarity: float
    """d·vᵀρv: 1 while nothing was seen, more for directions that were seen often of late."""


def recall(memories: Memories, rho: FloatArray, row: int, *, top: int = 5) -> list[Recalled]:
    """The `top` memories nearest to that of `row`, by cosine² × √familiarity, best first."""
    cosines = memories.vectors @ memories.vectors[row]
    cosines[row] = -1.0
    near = np.argpartition(-cosines, _SHORTLIST)[:_SHORTLIST]
    vectors = memories.vectors[near]
    familiarity = memories.dimension * ((vectors @ rho) * vectors).sum(axis=1)
    scores = np.square(cosines[near]) * np.sqrt(familiarity)
    best = np.argsort(-scores, kind="stable")[:top]
    return [Recalled(memories.names[near[i]], float(scores[i]), float(cosines[near[i]]), float(familiarity[i])) for i in best]
