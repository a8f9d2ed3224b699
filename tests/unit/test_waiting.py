"""When lateness lasts, and how long calls have waited: with clocks and counts that only move when they are told to."""

from __future__ import annotations

from sfm_grpc.rpc.waiting import Lateness, Queue


def noted(*late: float, every: float = 1) -> list[bool]:
    """What is said after each of some measurements, with a target of 3 and an interval of 4."""
    lateness, said = Lateness(3, 4), []
    for place, late_s in enumerate(late):
        lateness.note(late_s, place * every)
        said.append(lateness.lasting)
    return said


def test_on_time_is_not_late() -> None:
    assert not any(noted(*[0, 1, 3] * 20))


def test_one_hiccup_does_not_last_however_long_it_was() -> None:
    assert not any(noted(0, 500, 0, 0, 90, 0))


def test_what_is_late_for_an_interval_lasts() -> None:
    assert noted(6, 6, 6, 6, 6, 6) == [False] * 4 + [True] * 2


def test_one_measurement_in_time_ends_it_and_it_takes_an_interval_to_begin_again() -> None:
    assert noted(*[6] * 5, 1, *[6] * 5) == [False] * 4 + [True] + [False] * 5 + [True]


def test_the_smallest_of_the_interval_counts() -> None:
    assert not any(noted(*[90, 90, 90, 3] * 10))


def test_a_loop_so_late_that_it_is_asked_seldom_is_late_at_the_second_time() -> None:
    assert noted(20, 20, every=21) == [False, True]


class Gate:
    """Calls that are received and taken over when the test says so."""

    def __init__(self) -> None:
        self.received = self.taken = 0
        self.now = 100.0
        self.queue = Queue(lambda: self.received)

    def after(self, seconds: float, *, received: int = 0, taken: int = 0) -> float:
        self.now += seconds
        self.received += received
        self.taken += taken
        return round(self.queue.oldest_s(self.taken, self.now), 6)


def test_nobody_waits_where_all_are_taken_over() -> None:
    gate = Gate()
    assert [gate.after(1, received=5, taken=5) for _ in range(3)] == [0, 0, 0]


def test_the_oldest_has_waited_since_it_was_first_seen() -> None:
    gate = Gate()
    assert gate.after(1, received=10) == 0
    assert gate.after(0.02) == 0.02
    assert gate.after(0.02, received=10, taken=9) == 0.04
    # The tenth is gone; the eleventh came with the look before.
    assert gate.after(0.01, taken=1) == 0.01
    assert gate.after(0.01, taken=10) == 0


def test_a_queue_that_stays_as_long_as_it_is_is_as_old_as_its_oldest() -> None:
    gate = Gate()
    gate.after(1, received=100)
    waits = [gate.after(0.02, received=20, taken=20) for _ in range(20)]
    # Five turns of twenty, the last of them not yet over.
    assert waits[-10:] == [0.08] * 10


def test_calls_that_never_come_are_forgotten() -> None:
    """gRPC gives up some by itself; they must not be waited for until the end of days."""
    gate = Gate()
    gate.after(1, received=7)
    for _ in range(12):
        last = gate.after(1)
    assert last == 0
    assert gate.after(1, received=3, taken=3) == 0
    assert gate.after(1, received=1) == 0
    assert gate.after(1) == 1


def test_who_knows_that_nobody_waits_says_so() -> None:
    gate = Gate()
    gate.after(1, received=7)
    assert gate.queue.none() == 0
    assert gate.after(1, taken=7) == 0
