"""Who hung: what witnesses say, how stacks are read, and that all go by one verdict."""

import os
import re
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore

from trainwright_worker.agent import inquest
from trainwright_worker.agent.inquest import Inquest, leave_cause, read_cause
from trainwright_worker.agent.stacks import Frame, State, main_stack, place_of, state_of
from trainwright_worker.agent.verdict import Witness, judge


def witness(rank, state=State.ALIVE, *, waits=True, worker=None, place="all_reduce (c10d.py:1)"):
    worker = rank if worker is None else worker
    return Witness(worker=worker, rank=rank, step=7, seconds=15.2, state=state, waits=waits, place=place)


STUCK = {"waits": False, "place": "read (data.py:3)"}

STACKS = """Thread 0x00007fe474ecd6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007fe475e18b80 [python] (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/usr/lib/python3.11/concurrent/futures/_base.py", line 451 in result
  File "/app/trainwright_worker/data/loader.py", line 89 in read_ahead
  File "/app/trainwright_worker/training/loop.py", line 24 in fit
"""


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
