"""The queue: no pass of a key twice at once, nothing lost, failures back off."""

import asyncio
import itertools
from collections import Counter, defaultdict

import virtual_time
from hypothesis import given, settings
from hypothesis import strategies as st

from trainwright.controller.queue import KeyedQueue, RetryError


def _now():
    return asyncio.get_running_loop().time()


@settings(max_examples=200)
@given(
    adds=st.lists(st.tuples(st.integers(0, 4), st.floats(0, 3), st.floats(0, 2)), max_size=40),
    durations=st.lists(st.floats(0, 1), min_size=1, max_size=10),
    failing=st.sets(st.integers(0, 30)),
    limit=st.integers(1, 3),
    patient=st.sets(st.integers(0, 4)),
)
def test_no_key_twice_at_once_and_none_lost(adds, durations, failing, limit, patient):
    async def main():
        running, begun, count = Counter(), defaultdict(list), 0

        async def process(key):
            nonlocal count
            number, count = count, count + 1
            running[key] += 1
            begun[key].append(_now())
            assert running[key] == 1
            assert sum(running.values()) <= limit
            await asyncio.sleep(durations[number % len(durations)])
            running[key] -= 1
            if number in failing:
                raise ValueError

        queue = KeyedQueue(process, limit=limit, can_wait=patient.__contains__)
        stop = asyncio.Event()
        task = asyncio.create_task(queue.run(stop))
        wanted = {}
        for key, pause, after in adds:
            await asyncio.sleep(pause)
            queue.add(key, after)
            wanted[key] = max(wanted.get(key, 0.0), _now())
        await asyncio.sleep(1000)
        stop.set()
        await task
        # Whatever happened to a key, a pass has begun since.
        assert all(begun[key][-1] >= moment for key, moment in wanted.items())
        assert queue.depth == 0

    virtual_time.run(main())


def _run(process, script, *, limit=2, drain_timeout=15, **options):
    async def main():
        queue = KeyedQueue(process, limit=limit, **options)
        stop = asyncio.Event()
        task = asyncio.create_task(queue.run(stop, drain_timeout))
        await script(queue)
        stop.set()
        await task

    virtual_time.run(main())


@given(
    sizes=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    limit=st.integers(1, 8),
)
def test_between_two_passes_of_a_group_every_other_has_at_most_one(sizes, limit):
    """Groups of any size take turns: the first pass of the smallest waits for at most one of each."""
    begun = []

    async def process(key):
        begun.append(key[0])
        await asyncio.sleep(1)

    async def script(queue):
        for group, size in enumerate(sizes):
            for number in range(size):
                queue.add((group, number))
        await asyncio.sleep(1000)

    _run(process, script, limit=limit, group=lambda key: key[0])
    assert Counter(begun) == dict(enumerate(sizes))
    waiting = Counter(begun)
    for before, after in itertools.pairwise(begun):
        waiting[before] -= 1
        # The same group goes twice in a row only if no other waits.
        assert before != after or sum(waiting.values()) == waiting[before]


def test_slow_passes_of_one_group_leave_room_for_another():
    begun = {}

    async def process(key):
        begun[key] = _now()
        await asyncio.sleep(100 if key[0] == "slow" else 0)

    async def script(queue):
        for number in range(20):
            queue.add(("slow", number))
        await asyncio.sleep(1)
        queue.add(("quick", 0))
        await asyncio.sleep(1)

    _run(process, script, limit=8, group=lambda key: key[0], drain_timeout=0)
    assert len(begun) == 7
    assert begun["quick", 0] == 1


def test_what_has_begun_goes_before_what_can_wait():
    begun = []

    async def process(key):
        begun.append(key)
        await asyncio.sleep(1)

    async def script(queue):
        for number in range(6):
            queue.add(f"new {number}")
        await asyncio.sleep(0.5)
        queue.add("old 1")
        queue.add("old 2")
        await asyncio.sleep(10)

    _run(process, script, can_wait=lambda key: key.startswith("new"))
    assert begun[:2] == ["new 0", "new 1"]
    assert sorted(begun[2:4]) == ["old 1", "old 2"]
    assert begun[4:] == ["new 2", "new 3", "new 4", "new 5"]


def test_what_can_wait_does_not_wait_for_ever():
    begun = {}

    async def process(key):
        begun.setdefault(key, _now())
        await asyncio.sleep(1)
        return 0.0 if key != "new" else None

    async def script(queue):
        for key in ("old 1", "old 2", "old 3", "new"):
            queue.add(key)
        await asyncio.sleep(100)

    _run(process, script, can_wait=lambda key: key == "new")
    assert 29 < begun["new"] < 35


def test_what_can_wait_waits_for_nobody_who_is_not_due():
    begun = []

    async def process(key):
        begun.append((key, _now()))

    async def script(queue):
        queue.add("old", 50)
        queue.add("new", 10)
        await asyncio.sleep(100)

    _run(process, script, can_wait=lambda key: key == "new")
    assert [(key, round(at)) for key, at in begun] == [("new", 10), ("old", 50)]


def test_a_moment_that_is_close_is_waited_for():
    begun = []

    async def process(_):
        begun.append(_now())
        assert len(begun) < 10
        return 0.0008 - _now() if _now() < 0.0008 else None

    async def script(queue):
        queue.add("a")
        await asyncio.sleep(1)

    _run(process, script)
    assert len(begun) == 2


def test_failures_back_off_up_to_a_limit_and_success_resets():
    begun = []

    async def process(_):
        begun.append(_now())
        if len(begun) not in (9, 11):
            raise RetryError

    async def script(queue):
        queue.add("a")
        await asyncio.sleep(200)
        queue.add("a")
        await asyncio.sleep(100)

    _run(process, script, backoff_base=1.0, backoff_limit=60.0, jitter=lambda: 1.0)
    pauses = [round(b - a, 6) for a, b in itertools.pairwise(begun)]
    assert pauses[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pauses[9] == 1


def test_jitter_spreads_retries():
    begun = []

    async def process(_):
        begun.append(_now())
        raise RetryError

    async def script(queue):
        queue.add("a")
        await asyncio.sleep(0.9)

    _run(process, script, backoff_base=1.0, jitter=lambda: 0.0)
    assert begun == [0.0, 0.5]


def test_an_event_during_a_pass_leads_to_another_pass():
    begun = []

    async def process(_):
        begun.append(_now())
        await asyncio.sleep(1)

    async def script(queue):
        queue.add("a")
        await asyncio.sleep(0.5)
        for _ in range(10):
            queue.add("a")
        await asyncio.sleep(10)

    _run(process, script)
    assert begun == [0.0, 1.0]


def test_an_earlier_wish_wins_and_a_later_one_is_dropped():
    begun = []

    async def process(_):
        begun.append(_now())

    async def script(queue):
        queue.add("a", 10)
        queue.add("a", 2)
        queue.add("a", 5)
        await asyncio.sleep(60)

    _run(process, script)
    assert begun == [2.0]


def test_asks_again_when_the_pass_says_so():
    begun = []

    async def process(_):
        begun.append(_now())
        return 3.0 if len(begun) < 3 else None

    async def script(queue):
        queue.add("a")
        await asyncio.sleep(60)

    _run(process, script)
    assert begun == [0.0, 3.0, 6.0]


def test_keys_that_wait_for_days_take_no_more_room_with_every_event():
    begun = []

    async def process(key):
        begun.append(key)
        return 86_400.0 + key - _now() if _now() < 1000 else None

    async def script(queue):
        for _ in range(40):
            for key in range(100):
                queue.add(key)
            await asyncio.sleep(1)
        assert len(begun) == 40 * 100
        assert len(queue._first) + len(queue._later) <= 2 * 100 + 64
        await asyncio.sleep(86_400 + 200)
        assert len(begun) == 41 * 100, "and none was lost"

    _run(process, script, can_wait=lambda key: key % 2 == 0)


def test_tells_depth_and_age_and_whether_it_is_stuck():
    async def main():
        release = asyncio.Event()

        async def process(_):
            await release.wait()

        queue = KeyedQueue(process, limit=1)
        stop = asyncio.Event()
        task = asyncio.create_task(queue.run(stop))
        queue.add("a")
        await asyncio.sleep(1)
        queue.add("b")
        queue.add("c", 100)
        await asyncio.sleep(5)
        assert (queue.depth, queue.oldest, queue.stuck) == (1, 5.0, 5.0)
        release.set()
        await asyncio.sleep(1)
        assert (queue.depth, queue.oldest, queue.stuck) == (0, 0.0, 0.0)
        stop.set()
        await task

    virtual_time.run(main())


def test_stopping_lets_passes_end_but_not_for_ever():
    async def main():
        ended = []

        async def process(key):
            await asyncio.sleep(key)
            ended.append(key)

        queue = KeyedQueue(process, limit=10)
        stop = asyncio.Event()
        task = asyncio.create_task(queue.run(stop, drain_timeout=10))
        queue.add(5)
        queue.add(500)
        await asyncio.sleep(1)
        queue.add(1)
        stop.set()
        queue.add(2)
        await task
        assert 5 in ended
        assert 500 not in ended
        assert _now() == 11.0

    virtual_time.run(main())
