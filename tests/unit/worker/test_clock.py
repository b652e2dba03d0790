"""What a rank measures between meetings."""

import pytest

from trainwright_worker.training import clock as module
from trainwright_worker.training.clock import Clock


@pytest.fixture
def at(monkeypatch):
    """Return a function that sets the time."""

    def set_time(seconds: float) -> None:
        monkeypatch.setattr(module.time, "monotonic", lambda: seconds)

    set_time(100.0)
    return set_time


def test_steps_are_timed_from_the_last_meeting(at):
    clock = Clock()
    clock.begin(50)
    assert (clock.met, clock.saved, clock.logged) == (100.0, 100.0, 100.0)
    at(104.0)
    assert clock.step_seconds(58) == 0.5
    clock.meet(58)
    at(105.0)
    assert clock.step_seconds(60) == 0.5
    assert clock.step_seconds(58) == 1.0, "moved without a step"
    assert clock.saved == 100.0


def test_the_first_step_counts_towards_no_rate(at):
    clock = Clock()
    assert clock.rates(51, 408) == (None, None)
    at(110.0)
    assert clock.rates(61, 488) == (1.0, 8.0)
    at(120.0)
    assert clock.rates(91, 728) == (2.0, 16.0)


def test_losses_are_averaged_over_each_window(at):
    clock = Clock()
    assert clock.window_loss(6.0, 2) == 3.0
    assert clock.window_loss(7.0, 3) == 1.0
    assert clock.window_loss(7.0, 3) is None
    clock.forget_losses()
    assert clock.window_loss(0.5, 1) == 0.5
