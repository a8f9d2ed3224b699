"""A process that feeds an embedded index until it is killed: `python -m tests.vectors.feeder DIRECTORY BATCH GRAPH_POINTS_MIN`.

It tells on a line of its own how many batches are acknowledged, after each.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from msgspec import structs

from sfm_grpc.storage.vectors.contract import Point
from sfm_grpc.storage.vectors.edge import EdgeIndex
from tests.vectors.given import a_field, some_points

FIELD = a_field("fed", dimension=32)


def batch(number: int, size: int) -> list[Point]:
    """The points of a batch: the same whenever they are asked for."""
    return [structs.replace(point, key=f"{number}/{point.key}") for point in some_points(size, 32, seed=number)]


async def main(directory: str, size: str, graph_points_min: str) -> None:
    index = EdgeIndex(Path(directory), graph_points_min=int(graph_points_min))
    await index.open()
    for number in range(1, 1_000_000):
        await index.apply(FIELD, batch(number, int(size)), [])
        print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
