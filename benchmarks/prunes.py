"""Pruning 10 000 of 100 000 memories on Postgres: planned by an order, confirmed, applied, undone.

Through the generated stub to a server that is a process of its own. Postgres is durable (fsync, synchronous_commit). Each round
is undone again, so that the next finds what the first found; what is timed last is the undoing.

There is no peer: the target is a time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import grpc
import numpy as np
from sfm.v1 import pruner_pb2, pruner_pb2_grpc

from benchmarks import documents, postgres, processes
from benchmarks.bare import channel_options
from benchmarks.harness import Row, Section
from sfm_grpc.client import Client
from tests.support.services.absence import AbsentError

_COUNT, _QUICK_COUNT = 100_000, 20_000
_PART = 10
"""One memory in so many goes."""
_BATCH = 500
_NAMESPACE = "bench"
_TARGET_S = 2.0


def run(*, quick: bool) -> Section:
    """Fills a namespace, then prunes and undoes."""
    count, repeats = (_QUICK_COUNT, 2) if quick else (_COUNT, 5)
    title = f"Pruning {count // _PART} of {count} memories, on Postgres"
    try:
        with postgres.database() as url, processes.ours(**postgres.settings(url), **processes.PATIENT) as server:
            _fill(server.address, count)
            with grpc.insecure_channel(server.address, channel_options(server.address)) as channel:
                rounds = [_round(pruner_pb2_grpc.PrunerStub(channel), count, seed) for seed in range(repeats)]
            about = postgres.about(url)
    except AbsentError as absent:
        return Section(title, [], [str(absent)])
    plans, applies, undos = zip(*rounds, strict=True)
    return Section(
        title,
        [
            _row("plan and apply", [p + a for p, a in zip(plans, applies, strict=True)], None if quick else _TARGET_S),
            _row("  plan", plans),
            _row("  apply", applies),
            _row("undo", undos),
        ],
        ["The order's keys are drawn at random, the guards trip, and the token is sent.", about],
    )


def _fill(address: str, count: int) -> None:
    puts = documents.puts(count)
    with Client(address, timeout_s=60) as client:
        memories = client.namespace(_NAMESPACE).memories
        for places in documents.in_batches(count, _BATCH):
            memories.put_many(puts[places.start : places.stop])


def _round(pruner: pruner_pb2_grpc.PrunerStub, count: int, seed: int) -> tuple[float, float, float]:
    """Seconds of the plan, of applying it, and of undoing that."""
    keys = [documents.key(i) for i in random.Random(seed).sample(range(count), count // _PART)]
    began = time.perf_counter()
    asked = pruner_pb2.PlanPruneRequest(namespace=_NAMESPACE, order=pruner_pb2.PruneOrder(keys=keys))
    planned = pruner.PlanPrune(asked, timeout=60)
    planned_s = time.perf_counter()
    applied = pruner.ApplyPrune(
        pruner_pb2.ApplyPruneRequest(
            namespace=_NAMESPACE, plan_id=planned.plan.plan_id, confirm_token=planned.confirm_token, request_id=f"apply {seed}"
        ),
        timeout=60,
    )
    applied_s = time.perf_counter()
    undone = pruner.UndoPrune(pruner_pb2.UndoPruneRequest(namespace=_NAMESPACE, number=applied.audit.number), timeout=60)
    undone_s = time.perf_counter()
    assert applied.audit.memories == undone.audit.memories == len(keys)
    return planned_s - began, applied_s - planned_s, undone_s - applied_s


def _row(what: str, seconds: Sequence[float], at_most: float | None = None) -> Row:
    median = float(np.median(seconds))
    shown = f"{median:.2f} s ({min(seconds):.2f}–{max(seconds):.2f})"
    target = "" if at_most is None else f"< {at_most:g} s"
    return Row(what, shown, "", "", target, None if at_most is None else median < at_most, {"seconds": list(seconds)})
