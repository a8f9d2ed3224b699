"""The budget of answers, by itself: what is refused and what never is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from sfm_grpc.errors import Overloaded
from sfm_grpc.metrics import Metrics
from sfm_grpc.rpc.caller import Context
from sfm_grpc.rpc.load import LARGE_BYTES, Load, LoadRules

MOST = 4 * LARGE_BYTES


class Call:
    """As much of gRPC's context as an answer needs."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def sent(self) -> None:
        for callback in self._callbacks:
            callback(self)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def load(metrics: Metrics) -> Load:
    return Load(LoadRules(calls_max=9, request_bytes_max=MOST, answer_bytes_max=MOST, wait_max_s=1), metrics)


def in_flight(metrics: Metrics) -> float:
    value = metrics.registry.get_sample_value("sfm_answer_bytes_in_flight")
    assert value is not None
    return value


def answer(load: Load, size: int, *, refusable: bool = True) -> Call:
    call = Call()
    load.answer(size, cast(Context, call), refusable=refusable)
    return call


async def test_answers_are_counted_until_they_are_sent(load: Load, metrics: Metrics) -> None:
    calls = [answer(load, MOST // 2), answer(load, MOST // 2)]
    assert in_flight(metrics) == MOST
    with pytest.raises(Overloaded) as caught:
        answer(load, LARGE_BYTES)
    error = caught.value
    assert (error.limit, error.value, error.maximum) == ("inflight_answer_bytes_max", MOST + LARGE_BYTES, MOST)
    assert error.retry_after_s > 0
    calls[0].sent()
    assert in_flight(metrics) == MOST // 2
    answer(load, LARGE_BYTES).sent()
    calls[1].sent()
    assert in_flight(metrics) == 0


async def test_alone_even_the_largest_passes(load: Load, metrics: Metrics) -> None:
    call = answer(load, 100 * MOST)
    with pytest.raises(Overloaded):
        answer(load, LARGE_BYTES)
    call.sent()
    answer(load, 100 * MOST).sent()


async def test_what_tells_of_something_done_is_never_refused(load: Load, metrics: Metrics) -> None:
    answer(load, MOST)
    answer(load, MOST, refusable=False)
    assert in_flight(metrics) == 2 * MOST


async def test_small_answers_pass_a_full_server(load: Load, metrics: Metrics) -> None:
    answer(load, MOST)
    answer(load, LARGE_BYTES - 1)
    assert in_flight(metrics) == MOST


async def test_who_is_refused_together_comes_back_apart(load: Load) -> None:
    answer(load, MOST)
    delays = set()
    for _ in range(20):
        with pytest.raises(Overloaded) as caught:
            answer(load, MOST)
        delays.add(caught.value.retry_after_s)
    assert len(delays) > 5
    assert min(delays) * 3 >= max(delays) > min(delays) >= 0.1
