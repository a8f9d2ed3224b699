"""The window over which a p95 is taken, and the metrics' names."""

from __future__ import annotations

import random
import re
import time

import pytest
from prometheus_client import generate_latest

from sfm_grpc.metrics import LatencyWindow, Metrics


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def filled(*seconds: float, window_s: float = 60) -> LatencyWindow:
    window = LatencyWindow(window_s)
    for value in seconds:
        window.add(value)
    return window


def test_without_calls_there_is_nothing_to_measure() -> None:
    assert filled().p95() == (0.0, 0)


@pytest.mark.parametrize(("count", "place"), [(1, 1), (2, 2), (19, 19), (20, 19), (21, 20), (100, 95), (101, 96), (1000, 950)])
def test_the_p95_is_the_nearest_rank(count: int, place: int) -> None:
    values = [float(i) for i in range(1, count + 1)]
    random.Random(0).shuffle(values)
    p95, counted = filled(*values).p95()
    assert counted == count
    assert place <= p95 <= place * 1.022


def test_calls_leave_the_window_when_they_are_too_old(clock: Clock) -> None:
    window = filled(9.0, window_s=10)
    clock.now += 6
    window.add(1.0)
    assert window.p95() == (pytest.approx(9.0, rel=0.022), 2)
    clock.now += 6
    assert window.p95() == (pytest.approx(1.0, rel=0.022), 1)
    clock.now += 60
    assert window.p95() == (0.0, 0)


def test_the_whole_window_counts_at_any_rate(clock: Clock) -> None:
    """One slow second of ten at 5 000 calls a second: 10 % of the window, so the p95 is slow."""
    window = LatencyWindow(10)
    for second in range(10):
        clock.now += 1
        for _ in range(5000):
            window.add(0.2 if second == 0 else 0.001)
    assert window.p95() == (pytest.approx(0.2, rel=0.022), 50_000)


def test_what_is_within_the_bound_is_never_told_as_beyond_it() -> None:
    assert filled(0.06).p95()[0] == 0.06
    assert filled(0.0599).p95()[0] <= 0.06
    assert filled(0.0601).p95()[0] > 0.06
    assert filled(0.0, 1e-9).p95()[0] < 2e-6


def test_the_given_names_are_there_before_anything_happened() -> None:
    text = generate_latest(Metrics().registry).decode()
    for name in ("somabrain_rho_psd_ok", "somabrain_rho_trace_norm_error", "somabrain_rho_degraded_mode"):
        assert f"\n{name} " in text


def test_calls_are_counted_under_grpcs_usual_names_with_an_edge_at_60_ms() -> None:
    metrics = Metrics()
    call = metrics.call("sfm.v1.RhoStore", "GetRho")
    for code, seconds in (("OK", 0.060), ("OK", 0.0601), ("ABORTED", 100.0)):
        call.start()
        call.done(code, seconds)
    call.start()
    text = generate_latest(metrics.registry).decode()
    names = 'grpc_method="GetRho",grpc_service="sfm.v1.RhoStore"'
    found = dict(re.findall(r"^(grpc_server_\w+\{.*\}) (\S+)$", text, re.MULTILINE))
    assert found[f"grpc_server_started_total{{{names}}}"] == "4.0"
    assert found[f'grpc_server_handled_total{{grpc_code="OK",{names}}}'] == "2.0"
    assert found[f'grpc_server_handled_total{{grpc_code="ABORTED",{names}}}'] == "1.0"
    buckets = {edge: found[f'grpc_server_handling_seconds_bucket{{{names},le="{edge}"}}'] for edge in ("0.06", "0.1", "+Inf")}
    assert buckets == {"0.06": "1.0", "0.1": "2.0", "+Inf": "3.0"}
    assert found[f"grpc_server_handling_seconds_count{{{names}}}"] == "3.0"
    assert float(found[f"grpc_server_handling_seconds_sum{{{names}}}"]) == pytest.approx(100.1201)


def test_a_method_is_counted_in_one_place() -> None:
    metrics = Metrics()
    assert metrics.call("s", "m") is metrics.call("s", "m")
    assert metrics.call("s", "m") is not metrics.call("s", "n")


def test_two_servers_in_one_process_do_not_count_for_each_other() -> None:
    one, two = Metrics(), Metrics()
    one.commits.inc()
    assert b"sfm_rho_commits_total 1.0" in generate_latest(one.registry)
    assert b"sfm_rho_commits_total 0.0" in generate_latest(two.registry)
