"""What the manager has to think about: the documented objects of the Python standard library, as names and vectors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from sfm_grpc.client import MemoryPut

FloatArray = npt.NDArray[np.float64]

BATCH_ROWS = 8

_DATA = Path(__file__).with_name("data")


@dataclass(frozen=True, slots=True)
class Stream:
    """n names and n×d float64 vectors of length one. They come as a stream of batches of eight rows; the last may be shorter."""

    modules: tuple[str, ...]
    names: tuple[str, ...]
    """Each once: `module.name`, or the module alone."""
    vectors: FloatArray

    @classmethod
    def load(cls) -> Self:
        """Reads the files in data/."""
        # One `module:name` a line, the module alone where it is the object itself.
        lines = (_DATA / "stdlib_docs.names.txt").read_text(encoding="utf-8").splitlines()
        vectors = np.load(_DATA / "stdlib_docs.vectors.npy")
        modules = tuple(line.partition(":")[0] for line in lines)
        return cls(modules, tuple(line.replace(":", ".") for line in lines), _unit(vectors))

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return int(self.vectors.shape[1])

    @property
    def batches(self) -> int:
        """How many batches the stream has."""
        return -(-len(self.names) // BATCH_ROWS)

    def rows(self, batch: int) -> range:
        """The rows of a batch, counted from 0."""
        return range(batch * BATCH_ROWS, min((batch + 1) * BATCH_ROWS, len(self.names)))

    def batch(self, batch: int) -> FloatArray:
        """The vectors of a batch, k×d."""
        rows = self.rows(batch)
        return self.vectors[rows.start : rows.stop]

    def memories(self, batch: int) -> list[MemoryPut]:
        """What is to be remembered of a batch: a memory for each row, which can be found by its vector."""
        return [
            MemoryPut(
                self.names[row],
                {"module": self.modules[row], "row": row, "batch": batch},
                memory_type="module" if self.names[row] == self.modules[row] else "object",
                vector=self.vectors[row],
            )
            for row in self.rows(batch)
        ]


def _unit(vectors: npt.NDArray[np.float32]) -> FloatArray:
    """Each row over its length. float32 rows are of length one to seven digits only; sixteen are wanted.

    The length is summed exactly, so that every machine finds the same bits.
    """
    exact = vectors.astype(np.float64)
    # A product of two float32 numbers is exact in float64.
    lengths = [math.sqrt(math.fsum(row)) for row in np.square(exact).tolist()]
    unit: FloatArray = exact / np.array(lengths)[:, None]
    return unit
