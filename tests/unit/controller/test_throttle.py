"""How often a status is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwright.controller.throttle import StatusThrottle
from trainwright.controller.tuning import Tuning
from trainwright.plan.urgency import Urgency

TUNING = Tuning(status_interval=10, news_interval=0.5, status_rate=2)


def test_a_decision_never_waits():
    throttle = StatusThrottle(TUNING)
    for now in (0.0, 0.0, 0.1):
        assert throttle.wait("a", now, Urgency.DECISION) == 0
        throttle.written("a", now)


def test_news_wait_for_their_interval():
    throttle = StatusThrottle(TUNING)
    throttle.written("a", 100.0)
    assert throttle.wait("a", 100.1, Urgency.NEWS) == pytest.approx(0.4)
    assert throttle.wait("a", 104.0, Urgency.PROGRESS) == 6.0
    assert throttle.wait("a", 110.0, Urgency.PROGRESS) == 0
    throttle.forget("a")
    assert throttle.wait("a", 110.1, Urgency.PROGRESS) == 0


@given(st.lists(st.floats(0, 0.2), min_size=10, max_size=300))
def test_periodic_writes_of_all_jobs_stay_within_the_rate(pauses):
    throttle = StatusThrottle(TUNING)
    now, written = 100.0, 0
    for job, pause in enumerate(pauses):
        now += pause
        if throttle.wait(job, now, Urgency.PROGRESS) == 0:
            throttle.written(job, now)
            written += 1
    assert written <= 2 + 2 * (now - 100.0) + 1


def test_news_make_periodic_ones_wait():
    throttle = StatusThrottle(TUNING)
    for job in range(4):
        throttle.written(job, 100.0)
    assert throttle.wait("new", 100.0, Urgency.PROGRESS) >= 1
    assert throttle.wait("new", 100.0, Urgency.NEWS) == 0


def test_a_job_that_waits_keeps_its_turn():
    throttle = StatusThrottle(TUNING)
    waits = {job: throttle.wait(job, 100.0, Urgency.PROGRESS) for job in range(10)}
    assert [round(waits[job], 3) for job in range(10)] == [0, 0, 0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
    # Whoever comes back early is sent to the same moment, and at that moment may write.
    assert throttle.wait(9, 102.0, Urgency.PROGRESS) == 1.5
    assert throttle.wait(9, 103.5, Urgency.PROGRESS) == 0


def test_a_wait_shorter_than_the_queue_can_keep_is_none():
    throttle = StatusThrottle(Tuning(news_interval=0.5))
    throttle.written("a", 10.0)
    assert throttle.wait("a", 10.4985, Urgency.NEWS) == 0.0
    assert throttle.wait("a", 10.4, Urgency.NEWS) > 0.05


def test_groups_share_the_rate():
    throttle = StatusThrottle(TUNING, group=lambda key: key[0])
    for number in range(100):
        throttle.wait(("many", number), 100.0, Urgency.PROGRESS)
    assert throttle.wait(("many", 100), 100.0, Urgency.PROGRESS) == pytest.approx(49)
    # Two writes per second, one for each group.
    waits = [throttle.wait(("few", number), 100.0, Urgency.PROGRESS) for number in range(4)]
    assert waits == pytest.approx([0, 0, 1, 2])
    assert throttle.wait(("many", 101), 100.0, Urgency.PROGRESS) == pytest.approx(49.5)
    # Whoever comes when the others are done has the whole rate.
    alone = [throttle.wait(("late", number), 300.0, Urgency.PROGRESS) for number in range(5)]
    assert alone == pytest.approx([0, 0, 0, 0.5, 1])
