"""Groups take turns for slots."""

import asyncio

import pytest
import virtual_time

from trainwright.controller.turns import Slots, Turns


def test_groups_take_turns_in_the_order_in_which_they_came():
    turns = Turns()
    for group, item in [("a", 1), ("a", 2), ("a", 3), ("b", 4), (None, 5), (None, 6)]:
        turns.add(group, item)
    assert turns.peek() == 1
    assert turns.peek(lambda group: group == "a") == 4
    assert [turns.take() for _ in range(7)] == [1, 4, 5, 2, 6, 3, None]


def test_a_group_that_comes_later_waits_for_one_item_of_each():
    turns = Turns()
    for item in range(1000):
        turns.add("many", item)
    turns.take()
    turns.add("one", "mine")
    assert [turns.take(), turns.take()] == [1, "mine"]


def test_a_wide_request_leaves_the_second_slot_to_another_group():
    held = []

    async def use(slots, group):
        async with slots.hold(group):
            held.append(group)
            await asyncio.sleep(1)

    async def main():
        slots = Slots(2)
        many = [asyncio.create_task(use(slots, "many")) for _ in range(10)]
        await asyncio.sleep(0.5)
        await use(slots, "one")
        assert held.index("one") <= 3
        await asyncio.gather(*many)

    virtual_time.run(main())
    assert len(held) == 11


def test_a_slot_is_not_lost_to_a_waiter_that_is_cancelled():
    async def main():
        slots = Slots(1)
        async with slots.hold("a"):
            waiter = asyncio.create_task(_take(slots))
            late = asyncio.create_task(_take(slots))
            await asyncio.sleep(0)
            waiter.cancel()
        # The slot went to `late` in the moment in which that is cancelled, too.
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        async with asyncio.timeout(1), slots.hold("b"):
            pass

    virtual_time.run(main())


async def _take(slots):
    async with slots.hold("a"):
        await asyncio.sleep(1)
