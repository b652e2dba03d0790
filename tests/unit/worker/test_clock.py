"""What a rank measures between meetings."""

from types import SimpleNamespace

import pytest

from trainwright_worker.training import clock as module
from trainwright_worker.training.clock import Clock
from trainwright_worker.training.recovery import restart_loss_window


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
    clock.expect_losses(40.0, 20)
    assert clock.window_loss(43.0, 22) == 1.5
    clock.expect_losses()
    assert clock.window_loss(0.5, 1) == 0.5


@pytest.mark.parametrize(("step", "told_of"), [(27, 7), (20, 0), (0, 0)])
def test_the_first_loss_after_a_restart_is_of_the_steps_since(at, step, told_of):
    class TwoRanks:
        size = 2

        def sum(self, values):
            return [2 * value for value in values]

    run = SimpleNamespace(
        clock=Clock(),
        group=TwoRanks(),
        agenda=SimpleNamespace(steps_per_epoch=10),
        progress=SimpleNamespace(step=step, loss_sum=3.0 * told_of, omissions=SimpleNamespace(in_epoch=0)),
    )
    restart_loss_window(run)
    assert run.clock.window_loss(3.0 * told_of + 1.0, told_of + 2) == 0.5
