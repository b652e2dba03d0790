"""A rank's sign of life: how long it may go without a step, and when nobody can expect one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainwright.api.spec.health import HangSpec
from trainwright_worker.agent.watchdog import IdleTimer
from trainwright_worker.reporting.pulse import FEWEST, Pulse, Tolerance, pause_while_compiling, percentile


def tolerance_after(*seconds, **spec):
    tolerance = Tolerance(HangSpec(**spec))
    for value in seconds:
        tolerance.note(value)
    return tolerance.seconds


@pytest.mark.parametrize(
    ("steps", "spec", "seconds"),
    [
        ([], {}, 0),
        ([90.0], {}, 0),  # the first step compiles
        ([90.0, 0.1], {}, 0),
        ([90.0, 0.1, 0.1], {}, 15),
        ([90.0, 10.0, 12.0], {}, 60),
        ([90.0, 10.0, 12.0], {"factor": 2.0}, 24),
        ([90.0, 0.1, 0.1], {"min_seconds": 600}, 600),
        ([90.0, 0.1, 0.1], {"enabled": False}, 0),
        ([1.0, *[0.01] * 200, 30.0], {}, 15),  # one slow step in 200 is no rule
        ([1.0, *[4.0] * 1000, *[0.01] * 300], {}, 15),  # the window forgets
    ],
)
def test_patience_follows_the_steps(steps, spec, seconds):
    assert tolerance_after(*steps, **spec) == seconds


@given(st.lists(st.floats(0.0, 1e4), min_size=FEWEST + 1, max_size=400), st.integers(5, 100), st.floats(2, 20))
def test_patience_is_never_below_the_floor_nor_below_what_most_steps_take(steps, floor, factor):
    seconds = tolerance_after(*steps, min_seconds=floor, factor=factor)
    known = sorted(steps[1:][-256:])
    assert seconds >= floor
    assert sum(factor * value <= seconds for value in known) >= 0.99 * len(known)
    assert seconds <= max(floor, factor * max(known))


def test_after_a_change_of_the_position_the_next_step_may_take_long_again():
    tolerance = Tolerance(HangSpec())
    for _ in range(5):
        tolerance.note(1.0)
    tolerance.restart()
    assert tolerance.seconds == 0
    tolerance.note(100.0)
    tolerance.note(1.0)
    tolerance.note(1.0)
    assert tolerance.seconds == 15


def test_percentile_of_a_few():
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([7.0], 0.01) == 7.0


def test_a_rank_rests_while_torch_compiles_even_in_the_middle_of_training():
    from torch._dynamo.callback import callback_handler  # noqa: PLC0415

    pulse, seen = Pulse(), []

    def backend(graph, _):
        seen.append(pulse.patience)
        return graph

    pause_while_compiling(pulse)
    try:
        double = torch.compile(lambda x: x * 2, backend=backend, dynamic=False)
        double(torch.ones(2))
        assert pulse.patience == 0, "it rested before, and still does"
        pulse.expect(15.0)
        moves = pulse.moves
        double(torch.ones(3))
        assert seen == [0, 0]
        assert (pulse.patience, pulse.moves) == (15.0, moves + 1)
    finally:
        callback_handler.clear()


def test_standing_still_counts_only_while_a_step_can_be_expected():
    timer = IdleTimer()
    timer.observe(1, 15.0, 1.0)
    for _ in range(3):
        timer.observe(1, 15.0, 1.0)
    assert (timer.idle, timer.still) == (3, 3)
    timer.observe(1, 0.0, 1.0)  # it rests
    timer.observe(1, 0.0, 1.0)
    assert (timer.idle, timer.still) == (0, 1)
    timer.observe(2, 15.0, 1.0)
    assert (timer.idle, timer.still) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 5.0]), st.floats(0.01, 0.5), st.booleans())))
def test_idle_is_at_most_the_time_since_the_last_move_or_rest(looks):
    timer, since, before = IdleTimer(), 0.0, None
    for moves, patience, elapsed, forgiven in looks:
        timer.observe(moves, patience, elapsed)
        since = 0.0 if (moves, patience) != before or not patience else since + elapsed
        before = (moves, patience)
        if forgiven:
            timer.restart()
            since = 0.0
        assert timer.idle == pytest.approx(since)
        assert timer.idle <= timer.still + 1e-9
