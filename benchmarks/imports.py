"""Import of JSON Lines into the embedded server, with and without vectors of 384 float32.

Through the blocking client's `import_lines`, as `sfm memory import` calls it: the lines are in memory, each of a memory of about
900 bytes of JSON, a type and an importance. Timed is the whole call, so until every line is answered for and durable (SQLite,
WAL, synchronous FULL); each round goes into a namespace of its own. The index is fed meanwhile, on the same cores.

There is no peer: the targets are rates.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence

import numpy as np

from benchmarks import documents, processes
from benchmarks.harness import Row, Section
from sfm_grpc.client import Client

_COUNT, _QUICK_COUNT = 40_000, 10_000
_WITHOUT, _WITH = 20_000, 10_000
"""Items in a second that are aimed at."""


def run(*, quick: bool) -> Section:
    """Without vectors, then with."""
    count, repeats = (_QUICK_COUNT, 2) if quick else (_COUNT, 5)
    rows = []
    for what, with_vectors, at_least in (("without vectors", False, _WITHOUT), ("with vectors", True, _WITH)):
        lines = _lines(count, with_vectors=with_vectors)
        with processes.ours(**processes.PATIENT) as server, Client(server.address) as client:
            rates = [_rate(client, f"round {i}", lines) for i in range(repeats)]
        rows.append(_row(f"import {what}, {len(lines[0])} bytes a line", rates, at_least))
    return Section(
        f"Import of {count} JSON Lines, embedded",
        rows,
        ["From the call of `import_lines` to its report; a namespace for each round."],
    )


def _lines(count: int, *, with_vectors: bool) -> list[bytes]:
    vectors = documents.vectors(count) if with_vectors else None
    lines = []
    for place, put in enumerate(documents.puts(count)):
        line = {"key": put.key, "payload": put.payload, "memory_type": put.memory_type, "importance": put.importance}
        if vectors is not None:
            line["vector"] = base64.b64encode(vectors[place].tobytes()).decode()
        lines.append(json.dumps(line).encode())
    return lines


def _rate(client: Client, namespace: str, lines: Sequence[bytes]) -> float:
    began = time.perf_counter()
    report = client.namespace(namespace).memories.import_lines(lines)
    took = time.perf_counter() - began
    assert report.failed == 0
    return len(lines) / took


def _row(what: str, rates: Sequence[float], at_least: float) -> Row:
    median = float(np.median(rates))
    shown = f"{median:,.0f} items/s ({min(rates):,.0f} to {max(rates):,.0f})"
    return Row(what, shown, "", "", f"≥ {at_least:,.0f}", median >= at_least, {"items_per_second": list(rates)})
