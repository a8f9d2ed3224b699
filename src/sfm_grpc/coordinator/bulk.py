"""The streams that move many memories: how many there may be at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sfm_grpc.errors import Overloaded
from sfm_grpc.metrics import Metrics

_RETRY_S = 1.0


class BulkStreams:
    """Each holds a few batches in memory, and no more."""

    def __init__(self, streams_max: int, metrics: Metrics) -> None:
        self._streams_max = streams_max
        self._open = 0
        metrics.bulk_streams.set_function(lambda: self._open)

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Counts a stream while it lasts. Raises Overloaded."""
        if self._open >= self._streams_max:
            raise Overloaded(limit="bulk_streams_max", value=self._open + 1, maximum=self._streams_max, retry_after_s=_RETRY_S)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
