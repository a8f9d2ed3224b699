"""The checker of histories finds what is wrong with one, and nothing with one that is right."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import pytest

from tests.support.histories import Committed, Conflicted, History, Problem, Read, Request, Stored, counted, problems

Case = tuple[History, list[Stored]]


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def right() -> Case:
    """Five commits, one after the other, each read; one that lost; one whose answer came at the second time of asking.

    Commit v begins at 10v and is answered at 10v + 5; it is read from 10v + 6 to 10v + 8.
    """
    history, stored, content = History(), [], {}
    for version in range(1, 6):
        changes = {"who": digest(f"who {version}")} | (
            {"bulk": digest("bulk") if version == 2 else None} if version in (2, 4) else {}
        )
        request = history.ask(Request("n", f"r{version}", version - 1, changes))
        history.committed.append(Committed(request, version, 10.0 * version, 10.0 * version + 5, replayed=version == 3))
        content = {key: value for key, value in (content | changes).items() if value is not None}
        stored.append(Stored(version, request.request_id, content))
        history.reads.append(Read("n", version, content, 10.0 * version + 6, 10.0 * version + 8))
    loser = history.ask(Request("n", "loser", 2, {"who": digest("loser")}))
    history.conflicted.append(Conflicted(loser, 3, 31.0, 36.0, asked_s=32.0))
    history.ask(Request("n", "never answered", 5, {"who": digest("never")}))
    return history, stored


def found(case: Case) -> list[Problem]:
    history, stored = case
    return problems(history, {"n": stored})


def change(items: list, place: int, **fields: object) -> None:
    items[place] = dataclasses.replace(items[place], **fields)


def test_a_right_history_has_no_problems() -> None:
    assert found(right()) == []
    history, _ = right()
    assert (history.operations, history.namespaces) == (11, {"n"})


def test_what_was_in_flight_at_the_end_may_have_happened_or_not() -> None:
    history, stored = right()
    stored.append(Stored(6, "never answered", stored[-1].content | {"who": digest("never")}))
    assert found((history, stored)) == []


def test_versions_that_are_no_longer_kept_are_not_compared() -> None:
    history, stored = right()
    change(stored, 0, content=None)
    change(stored, 1, content=None)
    assert found((history, stored)) == []


def test_a_read_may_overtake_a_commit_that_is_under_way() -> None:
    history, stored = right()
    history.reads.append(Read("n", 4, stored[3].content, 50.1, 56.0))
    history.reads.append(Read("n", 5, stored[4].content, 50.5, 50.6))
    assert found((history, stored)) == []


def _lose_the_last(history: History, stored: list[Stored]) -> None:
    stored.pop()
    history.reads.pop()


def _lose_one_whose_place_was_taken(history: History, stored: list[Stored]) -> None:
    taker = history.ask(Request("n", "taker", 4, {"who": digest("who 5")}))
    change(stored, 4, request_id=taker.request_id)


def _lose_what_was_only_read(history: History, stored: list[Stored]) -> None:
    history.reads.append(Read("n", 6, stored[4].content, 60.0, 61.0))


def _gap(history: History, stored: list[Stored]) -> None:
    del stored[2]
    del history.committed[2]
    del history.reads[2]
    del history.conflicted[0]


def _double_in_the_store(history: History, stored: list[Stored]) -> None:
    stored.append(Stored(6, "r5", stored[4].content))


def _double_in_the_answers(history: History, stored: list[Stored]) -> None:
    history.committed.append(dataclasses.replace(history.committed[4], version=6, ended_s=70.0))


def _two_of_one_version(history: History, stored: list[Stored]) -> None:
    stored.append(dataclasses.replace(stored[4], request_id="never answered"))


def _make_what_was_denied(history: History, stored: list[Stored]) -> None:
    history.conflicted.append(Conflicted(history.requests["never answered"], 6, 51.0, 70.0))
    stored.append(Stored(6, "never answered", stored[-1].content | {"who": digest("never")}))


def _make_what_nobody_sent(history: History, stored: list[Stored]) -> None:
    stored.append(Stored(6, "foreign", stored[-1].content))


def _build_upon_another_version(history: History, stored: list[Stored]) -> None:
    late = history.ask(Request("n", "late", 3, {"who": digest("late")}))
    stored.append(Stored(6, late.request_id, stored[-1].content | {"who": digest("late")}))


def _store_wrong_bytes(history: History, stored: list[Stored]) -> None:
    change(stored, 2, content=stored[2].content | {"who": digest("other")})


def _forget_what_was_carried_along(history: History, stored: list[Stored]) -> None:
    change(stored, 2, content={"who": digest("who 3")})


def _read_wrong_bytes(history: History, stored: list[Stored]) -> None:
    change(history.reads, 2, content=stored[2].content | {"who": digest("who 2")})


def _read_only_a_part(history: History, stored: list[Stored]) -> None:
    change(history.reads, 2, content={"who": digest("who 3")})


def _read_an_older_version(history: History, stored: list[Stored]) -> None:
    change(history.reads, 4, version=4, content=stored[3].content)


def _read_backwards(history: History, stored: list[Stored]) -> None:
    """The commit is not answered yet, but somebody has read it."""
    history.reads.append(Read("n", 5, stored[4].content, 50.5, 50.6))
    history.reads.append(Read("n", 4, stored[3].content, 50.7, 50.8))


def _answer_out_of_order(history: History, stored: list[Stored]) -> None:
    """Version 5 was answered before version 4 was asked for."""
    change(history.committed, 4, began_s=36.0, ended_s=37.0)
    del history.reads[3:]


def _name_an_old_version_in_a_conflict(history: History, stored: list[Stored]) -> None:
    change(history.conflicted, 0, current=3, asked_s=46.0, ended_s=47.0)


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (_lose_the_last, "lost"),
        (_lose_one_whose_place_was_taken, "lost"),
        (_lose_what_was_only_read, "lost"),
        (_gap, "lost"),
        (_double_in_the_store, "doubled"),
        (_double_in_the_answers, "doubled"),
        (_two_of_one_version, "doubled"),
        (_make_what_was_denied, "doubled"),
        (_make_what_nobody_sent, "torn"),
        (_build_upon_another_version, "torn"),
        (_store_wrong_bytes, "torn"),
        (_forget_what_was_carried_along, "torn"),
        (_read_wrong_bytes, "torn"),
        (_read_only_a_part, "torn"),
        (_read_an_older_version, "stale"),
        (_read_backwards, "stale"),
        (_answer_out_of_order, "stale"),
        (_name_an_old_version_in_a_conflict, "stale"),
    ],
)
def test_each_way_to_be_wrong_is_found(harm: Callable[[History, list[Stored]], None], kind: str) -> None:
    case = right()
    harm(*case)
    counts = counted(found(case))
    assert counts[kind] > 0, found(case)
    assert set(counts) == {"lost", "doubled", "torn", "stale"}


def test_namespaces_are_judged_each_for_itself() -> None:
    history, stored = right()
    other = history.ask(Request("m", "m1", 0, {"who": digest("m")}))
    history.committed.append(Committed(other, 1, 100.0, 101.0))
    assert problems(history, {"n": stored, "m": [Stored(1, "m1", {"who": digest("m")})]}) == []
    [problem] = problems(history, {"n": stored})
    assert (problem.kind, str(problem)) == ("lost", "lost: m: m1 was told that it made version 1, where nothing is")
