"""Redis is left alone after three failures in a row, asked again at leisure, and registered when it has been there for long."""

from __future__ import annotations

from sfm_grpc.storage.redis.breaker import Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def breaker(settle_s: float = 5.0) -> tuple[Breaker, Clock]:
    clock = Clock()
    return Breaker(settle_s, clock), clock


def test_it_opens_after_three_failures_in_a_row_and_not_after_three_in_all() -> None:
    b, _ = breaker()
    for _ in range(5):
        b.failed("slow")
        b.failed("slow")
        assert not b.is_open
        b.worked()
    for _ in range(3):
        b.failed("gone")
    assert (b.is_open, b.problem, b.gone) == (True, "gone", False)


def test_what_fails_at_leisure_is_gone_at_once_and_asked_again_later_and_later() -> None:
    b, clock = breaker()
    waits = []
    for _ in range(12):
        b.failed("gone", at_leisure=True)
        assert b.is_open
        assert b.gone
        begun = clock.now
        while not b.is_due():
            clock.now += 0.01
        waits.append(clock.now - begun)
    assert 0.04 < waits[0] < 0.12
    assert max(waits) <= 2.02
    assert min(waits[6:]) > 0.9
    b.worked()
    assert (b.is_open, b.gone, b.problem) == (False, False, "")


def test_it_is_settled_when_it_has_answered_for_long_enough() -> None:
    b, clock = breaker()
    b.worked()
    b.answered_as("one")
    clock.now += 4.9
    assert not b.is_settled("one")
    clock.now += 0.2
    assert b.is_settled("one")
    assert not b.is_settled("another")


def test_another_process_begins_anew_and_what_comes_and_goes_waits_longer_each_time() -> None:
    b, clock = breaker()
    b.worked()
    b.answered_as("0")
    clock.now += 100
    needed = []
    for turn in range(1, 9):
        b.answered_as(str(turn))
        begun = clock.now
        while not b.is_settled(str(turn)):
            clock.now += 0.5
        needed.append(clock.now - begun)
    assert needed[:4] == [5.0, 10.0, 20.0, 40.0]
    assert max(needed) <= 300.0


def test_what_was_long_ago_is_forgiven() -> None:
    b, clock = breaker()
    b.worked()
    for turn in range(4):
        b.answered_as(str(turn))
    clock.now += 3600
    b.answered_as("later")
    clock.now += 5.1
    assert b.is_settled("later")
