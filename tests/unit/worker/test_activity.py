"""Every second of a launch belongs to one activity."""

from contextlib import suppress

import pytest

from trainwright.api.status import LaunchSeconds
from trainwright.api.worker import WorkerPhase
from trainwright_worker.reporting import activity
from trainwright_worker.reporting.activity import ACTIVITY_OF, Activity, ActivityTimer
from trainwright_worker.reporting.pulse import Pulse
from trainwright_worker.reporting.report import Reporter, first_report


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(activity, "time", clock)
    return clock


def test_the_parts_make_up_the_whole(clock):
    sheet = ActivityTimer()
    clock.now += 3.25
    sheet.switch_to(Activity.TRAINING)
    clock.now += 10
    with sheet.during(Activity.CHECKPOINTING):
        clock.now += 0.5
        assert sheet.read().checkpointing == 0.5
    clock.now += 5
    with suppress(RuntimeError), sheet.during(Activity.EVALUATING):
        clock.now += 2
        raise RuntimeError
    clock.now += 1
    assert sheet.read() == LaunchSeconds(loading=3.25, training=16, checkpointing=0.5, evaluating=2)


def test_every_phase_and_every_activity_has_its_place():
    assert set(ACTIVITY_OF) == set(WorkerPhase)
    assert set(Activity) == set(LaunchSeconds.model_fields)


def test_reports_carry_the_sums_of_the_phases(clock):
    reporter = Reporter(None, first_report("u", 1, "l"), Pulse())
    clock.now += 4
    reporter.update(phase=WorkerPhase.TRAINING, step=1)
    clock.now += 6
    reporter.update(step=2)
    reporter.update(phase=WorkerPhase.EVALUATING)
    clock.now += 2
    assert reporter.close(1).seconds == LaunchSeconds(loading=4, training=6, evaluating=2)


def test_a_stall_is_no_training_and_only_training_can_stall(clock):
    sheet = ActivityTimer()
    sheet.mark_stalled(True)
    clock.now += 2
    sheet.switch_to(Activity.TRAINING)
    clock.now += 3
    sheet.mark_stalled(False)
    clock.now += 4
    assert sheet.read() == LaunchSeconds(loading=2, training=4, stalled=3)
