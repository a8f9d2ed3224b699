"""Questions that many ask at the same time are asked once, and never answered from before they were asked."""

from __future__ import annotations

import asyncio

import pytest

from sfm_grpc.coordinator.shared import SharedQuestions


class Asked:
    """Answers with how often it was asked, when it is let."""

    def __init__(self) -> None:
        self.count = 0
        self.gates: list[asyncio.Event] = []

    async def __call__(self, key: str) -> tuple[str, int]:
        self.count += 1
        mine, gate = self.count, asyncio.Event()
        self.gates.append(gate)
        await gate.wait()
        if key == "wrong":
            raise ValueError(key)
        return key, mine

    async def let(self, place: int) -> None:
        while len(self.gates) <= place:  # noqa: ASYNC110  it is asked within a turn or two of the loop
            await asyncio.sleep(0)
        self.gates[place].set()


async def test_who_comes_while_one_is_under_way_shares_the_next() -> None:
    asked = Asked()
    shared = SharedQuestions(asked)
    first = asyncio.create_task(shared.answer("k"))
    await asyncio.sleep(0)
    later = [asyncio.create_task(shared.answer("k")) for _ in range(5)]
    await asyncio.sleep(0)
    await asked.let(0)
    assert await first == ("k", 1)
    await asked.let(1)
    assert set(await asyncio.gather(*later)) == {("k", 2)}
    assert asked.count == 2


async def test_keys_do_not_wait_for_each_other() -> None:
    asked = Asked()
    shared = SharedQuestions(asked)
    one, other = (asyncio.create_task(shared.answer(key)) for key in ("a", "b"))
    await asyncio.sleep(0)
    await asked.let(1)
    assert await other == ("b", 2)
    await asked.let(0)
    assert await one == ("a", 1)


async def test_an_error_is_told_to_all_who_share_it_and_the_next_question_is_asked() -> None:
    asked = Asked()
    shared = SharedQuestions(asked)
    tasks = [asyncio.create_task(shared.answer("wrong")) for _ in range(3)]
    await asyncio.sleep(0)
    for place in range(2):
        await asked.let(place)
    for task in tasks:
        with pytest.raises(ValueError, match="wrong"):
            await task
    assert asked.count == 2


async def test_who_gives_up_leaves_the_others_question_alone() -> None:
    asked = Asked()
    shared = SharedQuestions(asked)
    tasks = [asyncio.create_task(shared.answer("k")) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[0].cancel()  # the one that asks itself
    tasks[1].cancel()  # one of those who wait
    await asked.let(1)
    assert [await task for task in tasks[2:]] == [("k", 2)] * 2
    again = asyncio.create_task(shared.answer("k"))
    await asked.let(2)
    assert await again == ("k", 3)
