"""When a rank counts as hung, which one is at fault, and how workers find that out together."""

import os
import re
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore

from trainwright.api.exit_codes import ExitCode, FailureClass
from trainwright.api.spec.health import HangSpec
from trainwright_worker.agent import inquest, watchdog
from trainwright_worker.agent.inquest import Inquest, leave_cause, read_cause
from trainwright_worker.agent.stacks import Frame, State, main_stack, place_of, state_of
from trainwright_worker.agent.verdict import Witness, judge
from trainwright_worker.agent.watchdog import Vigil, Ward, Watchdog
from trainwright_worker.reporting.pulse import FEWEST, Pulse, Tolerance, percentile, rest_while_compiling

# -- how long a rank may go without a step -----------------------------------------------------------------------------


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

    rest_while_compiling(pulse)
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


# -- for how long it has stood still -----------------------------------------------------------------------------------


def test_standing_still_counts_only_while_a_step_can_be_expected():
    vigil = Vigil()
    vigil.look(1, 15.0, 1.0)
    for _ in range(3):
        vigil.look(1, 15.0, 1.0)
    assert (vigil.idle, vigil.still) == (3, 3)
    vigil.look(1, 0.0, 1.0)  # it rests
    vigil.look(1, 0.0, 1.0)
    assert (vigil.idle, vigil.still) == (0, 1)
    vigil.look(2, 15.0, 1.0)
    assert (vigil.idle, vigil.still) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 5.0]), st.floats(0.01, 0.5), st.booleans())))
def test_idle_is_at_most_the_time_since_the_last_move_or_rest(looks):
    vigil, since, before = Vigil(), 0.0, None
    for moves, patience, elapsed, forgiven in looks:
        vigil.look(moves, patience, elapsed)
        since = 0.0 if (moves, patience) != before or not patience else since + elapsed
        before = (moves, patience)
        if forgiven:
            vigil.forgive()
            since = 0.0
        assert vigil.idle == pytest.approx(since)
        assert vigil.idle <= vigil.still + 1e-9


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


class Peers:
    """What the other workers say."""

    others = ()

    def __init__(self):
        self.told = 0
        self.resting = self.opened = False
        self.heard = None

    def tell_resting(self):
        self.told += 1

    def someone_rested(self):
        return self.resting

    def open(self):
        return True

    def testify(self, witnesses):
        self.heard = list(witnesses)

    def close(self, finder):
        return judge(self.heard, (), finder)

    def hear(self):
        return None


class Watch:
    """A watchdog whose clock stands until it is told to go on."""

    def __init__(self, monkeypatch, tmp_path, **spec):
        self.clock, self.peers = Clock(), Peers()
        monkeypatch.setattr(watchdog, "time", self.clock)
        self.pulses = [Pulse(), Pulse()]
        wards = [Ward(rank, os.getpid(), pulse) for rank, pulse in enumerate(self.pulses)]
        self.dog = Watchdog(HangSpec(**spec), 0, wards, tmp_path, self.peers)

    def go_on(self, seconds):
        """Return the first verdict within so many seconds, with the seconds that went by."""
        for tick in range(int(seconds * 20)):
            self.clock.now += 0.05
            verdict = self.dog.look()
            if verdict is not None:
                return verdict, (tick + 1) / 20
        return None


@pytest.fixture
def watch(monkeypatch, tmp_path):
    return Watch(monkeypatch, tmp_path)


def expect(watch, *patience):
    for pulse, seconds in zip(watch.pulses, patience, strict=True):
        pulse.expect(seconds)


def test_a_rank_is_hung_after_its_patience_and_not_before(watch):
    expect(watch, 15.0, 15.0)
    assert watch.go_on(14.9) is None
    assert watch.pulses[0].stalled
    verdict, seconds = watch.go_on(1)
    assert seconds < 0.5
    assert verdict.cause.category == FailureClass.HANG
    assert verdict.worker == 0


def test_whoever_moves_is_not_hung(watch):
    expect(watch, 15.0, 15.0)
    for _ in range(10):
        assert watch.go_on(10) is None
        for pulse in watch.pulses:
            pulse.beat()
    assert watch.go_on(1) is None
    assert not watch.pulses[0].stalled


def test_nobody_is_hung_while_a_rank_of_the_same_worker_rests(watch):
    expect(watch, 15.0, 0.0)
    assert watch.go_on(100) is None
    assert watch.peers.told >= 90
    watch.pulses[1].expect(15.0)
    assert watch.go_on(14.9) is None, "patience begins when the rest is over"
    assert watch.go_on(1) is not None


def test_nobody_is_hung_while_another_worker_rests(watch):
    expect(watch, 15.0, 15.0)
    watch.peers.resting = True
    assert watch.go_on(100) is None
    assert watch.peers.told == 0
    watch.peers.resting = False
    assert watch.go_on(13) is None
    assert watch.go_on(3) is not None


def test_time_in_which_the_agent_itself_was_stopped_does_not_count(watch):
    expect(watch, 15.0, 15.0)
    assert watch.go_on(5) is None
    watch.clock.now += 3600
    assert watch.go_on(9) is None
    assert watch.go_on(2) is not None


def test_a_stopped_process_is_hung_even_while_it_rests(watch, monkeypatch):
    monkeypatch.setattr(watchdog, "state_of", lambda _: State.STOPPED)
    verdict, seconds = watch.go_on(30)
    assert 9 < seconds < 13
    assert "stopped (SIGSTOP)" in verdict.cause.message


def test_watching_can_be_switched_off(monkeypatch, tmp_path):
    watch = Watch(monkeypatch, tmp_path, enabled=False)
    expect(watch, 15.0, 15.0)
    assert watch.go_on(100) is None


def test_an_inquest_of_another_worker_is_joined_within_a_second(watch):
    expect(watch, 15.0, 15.0)
    watch.peers.opened = True
    verdict, seconds = watch.go_on(2)
    assert seconds <= 1.1
    assert [witness.rank for witness in watch.peers.heard] == [0, 1]
    assert verdict.cause.exit_code == ExitCode.HANG


# -- which rank is at fault --------------------------------------------------------------------------------------------


def witness(rank, state=State.ALIVE, *, waits=True, worker=None, place="all_reduce (c10d.py:1)"):
    worker = rank if worker is None else worker
    return Witness(worker=worker, rank=rank, step=7, seconds=15.2, state=state, waits=waits, place=place)


STUCK = {"waits": False, "place": "read (data.py:3)"}


@pytest.mark.parametrize(
    ("witnesses", "silent", "worker", "rank", "words"),
    [
        ([witness(0), witness(1, State.STOPPED)], (), 1, 1, r"the process is stopped \(SIGSTOP\)"),
        ([witness(0, State.ASLEEP, place="nfs_wait"), witness(1)], (), 0, 0, "sleeps in the kernel .*, in nfs_wait"),
        ([witness(0), witness(1, **STUCK), witness(2)], (), 1, 1, r"it stands in read \(data.py:3\)"),
        ([witness(0, **STUCK), witness(1, **STUCK)], (), 0, 0, "it stands in read"),
        ([witness(0, **STUCK), witness(1, State.STOPPED)], (), 1, 1, "stopped"),
        ([witness(0)], (), 0, 0, "rank 0 .* stands in all_reduce"),
        ([witness(0), witness(1)], (), 0, None, "cannot be told"),
        ([witness(0)], (1,), None, None, "on rank 0, and worker 1 does not answer"),
        ([witness(0, **STUCK)], (1, 2), 0, 0, "it stands in read"),
        (
            [witness(5, State.STOPPED, worker=2)],
            (0, 1),
            2,
            5,
            r"rank 5 \(worker 2\) hangs: no step for 15 s after step 7",
        ),
    ],
)
def test_the_culprit_is_who_does_not_wait_for_others(witnesses, silent, worker, rank, words):
    verdict = judge(witnesses, silent, witnesses[0])
    assert (verdict.worker, verdict.cause.rank) == (worker, rank)
    assert re.search(words, verdict.cause.message)
    assert verdict.cause.hint


@given(
    st.lists(
        st.tuples(st.sampled_from([State.ALIVE, State.GONE, State.STOPPED, State.ASLEEP]), st.booleans()), min_size=2
    ),
    st.sets(st.integers(100, 103)),
)
def test_a_victim_is_never_named(states, silent):
    witnesses = [witness(rank, state, waits=waits) for rank, (state, waits) in enumerate(states)]
    verdict = judge(witnesses, silent, witnesses[0])
    if verdict.cause.rank is None:
        assert all(item.waits and item.state not in (State.STOPPED, State.ASLEEP) for item in witnesses)
        assert verdict.worker == (None if silent else 0)
    else:
        named = witnesses[verdict.cause.rank]
        assert not named.waits or named.state in (State.STOPPED, State.ASLEEP)
        assert verdict.worker == named.worker


STACKS = """Thread 0x00007fe474ecd6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007fe475e18b80 [python] (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/usr/lib/python3.11/concurrent/futures/_base.py", line 451 in result
  File "/app/trainwright_worker/data/loader.py", line 89 in read_ahead
  File "/app/trainwright_worker/training/loop.py", line 24 in fit
"""


def test_stacks_are_read_as_python_writes_them():
    frames = main_stack(STACKS)
    assert [frame.function for frame in frames] == ["wait", "result", "read_ahead", "fit"]
    assert place_of(frames) == "read_ahead (trainwright_worker/data/loader.py:89)"
    assert not frames[0].waits
    assert main_stack("") == []
    assert place_of([]) == ""


@pytest.mark.parametrize(
    ("file", "function", "waits"),
    [
        ("/x/torch/autograd/graph.py", "_engine_run_backward", True),
        ("/x/torch/distributed/distributed_c10d.py", "all_reduce", True),
        ("/x/torch/cuda/streams.py", "synchronize", True),
        ("/x/trainwright_worker/training/meeting.py", "_agree", True),
        ("/x/torch/nn/modules/linear.py", "forward", False),
        ("/x/trainwright_worker/data/loader.py", "read_ahead", False),
    ],
)
def test_who_waits_for_others(file, function, waits):
    assert Frame(file, 1, function).waits == waits


def test_the_kernel_knows_who_is_gone():
    assert state_of(os.getpid()) == State.ALIVE
    assert state_of(2**22 + 1) == State.GONE
    assert Path("/proc/self/stat").exists()


# -- how workers find out together -------------------------------------------------------------------------------------


def test_an_inquest_hears_everyone_and_all_go_by_one_verdict():
    keys, members = HashStore(), range(3)
    rooms = [Inquest(keys, 4, index, members) for index in members]
    assert not any(room.opened for room in rooms)
    assert rooms[1].open()
    assert not rooms[2].open()
    assert all(room.opened for room in rooms)
    assert not Inquest(keys, 5, 0, members).opened
    heard = []
    others = [threading.Thread(target=lambda room=rooms[index]: heard.append(room.hear())) for index in (0, 2)]
    for index, other in zip((0, 2), others, strict=True):
        rooms[index].testify([witness(index, **(STUCK if index == 2 else {}))])
        other.start()
    rooms[1].testify([witness(1)])
    verdict = rooms[1].close(witness(1))
    for other in others:
        other.join()
    assert heard == [verdict, verdict]
    assert verdict.worker == verdict.cause.rank == 2


def test_who_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(inquest, "WITNESS_SECONDS", 0.1)
    room = Inquest(HashStore(), 1, 0, range(2))
    assert room.open()
    room.testify([witness(0)])
    assert "worker 1 does not answer" in room.close(witness(0)).cause.message


def test_nonsense_from_another_pod_is_no_answer(monkeypatch):
    monkeypatch.setattr(inquest, "WITNESS_SECONDS", 0.1)
    keys = HashStore()
    keys.set("witnesses/1/1", "[{}]")
    room = Inquest(keys, 1, 0, range(2))
    room.testify([witness(0)])
    assert room.close(witness(0)).worker is None
    keys.set("verdict/1", "{")
    assert room.hear() is None


def test_resting_is_told_to_all_once_for_each_that_asks():
    keys = HashStore()
    one, other = (Inquest(keys, 1, index, range(2)) for index in range(2))
    assert not other.someone_rested()
    one.tell_resting()
    assert other.someone_rested()
    assert not other.someone_rested()


def test_the_first_cause_is_kept():
    keys = HashStore()
    keys.set_timeout(timedelta(seconds=1))
    first = judge([witness(0, **STUCK)], (), witness(0)).cause
    assert leave_cause(keys, 3, first, 0) == first
    assert leave_cause(keys, 3, judge([witness(1, **STUCK)], (), witness(1)).cause, 1) == first
    assert read_cause(keys, 3) == first
    assert read_cause(keys, 4) is None
    gone = SimpleNamespace(check=lambda _: (_ for _ in ()).throw(RuntimeError))
    assert read_cause(gone, 3) is None
