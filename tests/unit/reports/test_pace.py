"""How long those who report are asked to pause."""

import pytest

from trainwright.reports.pace import Pace


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def heard(pace, senders):
    return [pace.pause(sender, "team") for sender in range(senders)][-1]


def test_a_few_need_not_pause_and_many_share_the_rate():
    pace = Pace(100, 15, Clock())
    assert heard(pace, 10) == 0.1
    assert heard(pace, 1000) == 10


def test_who_reports_again_counts_once():
    pace = Pace(100, 15, Clock())
    for _ in range(50):
        pace.pause("the same", "team")
    assert pace.pause("the same", "team") == 0.01


def test_nobody_is_silenced_for_longer_than_the_longest_pause():
    assert heard(Pace(100, 15, Clock()), 100_000) == 15


def test_those_who_fell_silent_are_forgotten_after_two_windows():
    clock = Clock()
    pace = Pace(100, 15, clock)
    assert heard(pace, 1000) == 10
    clock.now += 31
    assert heard(pace, 1) == 10
    clock.now += 31
    assert heard(pace, 1) == 0.01


def test_after_a_long_silence_of_all_nothing_is_remembered():
    clock = Clock()
    pace = Pace(100, 15, clock)
    heard(pace, 1000)
    clock.now += 3600
    assert heard(pace, 1) == 0.01


def test_a_group_that_needs_less_than_its_share_is_not_held_back():
    pace = Pace(100, 15, Clock())
    heard(pace, 1000)
    assert pace.pause(0, "small") <= 1
    # The others share what it leaves.
    assert pace.pause(0, "team") == pytest.approx(1000 / 99)


def test_groups_that_need_more_than_their_share_share_the_rate_equally():
    pace = Pace(100, 60, Clock())
    for team, senders in (("a", 100), ("b", 400), ("c", 10)):
        for sender in range(senders):
            pace.pause(sender, team)
    assert pace.pause(0, "a") == pytest.approx(100 / 45)
    assert pace.pause(0, "b") == pytest.approx(400 / 45)
    assert pace.pause(0, "c") <= 1
