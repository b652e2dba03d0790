"""Who hung: what findings say, how stacks are read, and that all go by one diagnosis."""

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

from trainwright_worker.agent import hang_investigation
from trainwright_worker.agent.hang_diagnosis import RankFinding, diagnose
from trainwright_worker.agent.hang_investigation import HangInvestigation, leave_cause, read_cause
from trainwright_worker.agent.stacks import Frame, ProcessState, location_of, main_stack, state_of


def finding(rank, state=ProcessState.ALIVE, *, waits=True, worker=None, location="all_reduce (c10d.py:1)"):
    worker = rank if worker is None else worker
    return RankFinding(worker=worker, rank=rank, step=7, seconds=15.2, state=state, waits=waits, location=location)


STUCK = {"waits": False, "location": "read (data.py:3)"}

STACKS = """Thread 0x00007fe474ecd6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 982 in run

Current thread 0x00007fe475e18b80 [python] (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 320 in wait
  File "/usr/lib/python3.11/concurrent/futures/_base.py", line 451 in result
  File "/app/trainwright_worker/data/loader.py", line 89 in read_ahead
  File "/app/trainwright_worker/training/loop.py", line 24 in fit
"""


@pytest.mark.parametrize(
    ("findings", "silent", "worker", "rank", "words"),
    [
        ([finding(0), finding(1, ProcessState.STOPPED)], (), 1, 1, r"the process is stopped \(SIGSTOP\)"),
        (
            [finding(0, ProcessState.ASLEEP, location="nfs_wait"), finding(1)],
            (),
            0,
            0,
            "sleeps in the kernel .*, in nfs_wait",
        ),
        ([finding(0), finding(1, **STUCK), finding(2)], (), 1, 1, r"it stands in read \(data.py:3\)"),
        ([finding(0, **STUCK), finding(1, **STUCK)], (), 0, 0, "it stands in read"),
        ([finding(0, **STUCK), finding(1, ProcessState.STOPPED)], (), 1, 1, "stopped"),
        ([finding(0)], (), 0, 0, "rank 0 .* stands in all_reduce"),
        ([finding(0), finding(1)], (), 0, None, "cannot be told"),
        ([finding(0)], (1,), None, None, "on rank 0, and worker 1 does not answer"),
        ([finding(0, **STUCK)], (1, 2), 0, 0, "it stands in read"),
        (
            [finding(5, ProcessState.STOPPED, worker=2)],
            (0, 1),
            2,
            5,
            r"rank 5 \(worker 2\) hangs: no step for 15 s after step 7",
        ),
    ],
)
def test_the_culprit_is_who_does_not_wait_for_others(findings, silent, worker, rank, words):
    diagnosis = diagnose(findings, silent, findings[0])
    assert (diagnosis.worker, diagnosis.cause.rank) == (worker, rank)
    assert re.search(words, diagnosis.cause.message)
    assert diagnosis.cause.hint


@given(
    st.lists(
        st.tuples(
            st.sampled_from([ProcessState.ALIVE, ProcessState.GONE, ProcessState.STOPPED, ProcessState.ASLEEP]),
            st.booleans(),
        ),
        min_size=2,
    ),
    st.sets(st.integers(100, 103)),
)
def test_a_victim_is_never_named(states, silent):
    findings = [finding(rank, state, waits=waits) for rank, (state, waits) in enumerate(states)]
    diagnosis = diagnose(findings, silent, findings[0])
    if diagnosis.cause.rank is None:
        assert all(item.waits and item.state not in (ProcessState.STOPPED, ProcessState.ASLEEP) for item in findings)
        assert diagnosis.worker == (None if silent else 0)
    else:
        named = findings[diagnosis.cause.rank]
        assert not named.waits or named.state in (ProcessState.STOPPED, ProcessState.ASLEEP)
        assert diagnosis.worker == named.worker


def test_stacks_are_read_as_python_writes_them():
    frames = main_stack(STACKS)
    assert [frame.function for frame in frames] == ["wait", "result", "read_ahead", "fit"]
    assert location_of(frames) == "read_ahead (trainwright_worker/data/loader.py:89)"
    assert not frames[0].waits
    assert main_stack("") == []
    assert location_of([]) == ""


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
    assert state_of(os.getpid()) == ProcessState.ALIVE
    assert state_of(2**22 + 1) == ProcessState.GONE
    assert Path("/proc/self/stat").exists()


def test_an_investigation_asks_every_worker_and_all_go_by_one_diagnosis():
    keys, members = HashStore(), range(3)
    rooms = [HangInvestigation(keys, 4, index, members) for index in members]
    assert not any(room.opened for room in rooms)
    assert rooms[1].open()
    assert not rooms[2].open()
    assert all(room.opened for room in rooms)
    assert not HangInvestigation(keys, 5, 0, members).opened
    heard = []
    others = [
        threading.Thread(target=lambda room=rooms[index]: heard.append(room.await_diagnosis())) for index in (0, 2)
    ]
    for index, other in zip((0, 2), others, strict=True):
        rooms[index].add_findings([finding(index, **(STUCK if index == 2 else {}))])
        other.start()
    rooms[1].add_findings([finding(1)])
    diagnosis = rooms[1].conclude(finding(1))
    for other in others:
        other.join()
    assert heard == [diagnosis, diagnosis]
    assert diagnosis.worker == diagnosis.cause.rank == 2


def test_who_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(hang_investigation, "FINDINGS_SECONDS", 0.1)
    room = HangInvestigation(HashStore(), 1, 0, range(2))
    assert room.open()
    room.add_findings([finding(0)])
    assert "worker 1 does not answer" in room.conclude(finding(0)).cause.message


def test_nonsense_from_another_pod_is_no_answer(monkeypatch):
    monkeypatch.setattr(hang_investigation, "FINDINGS_SECONDS", 0.1)
    keys = HashStore()
    keys.set("findings/1/1", "[{}]")
    room = HangInvestigation(keys, 1, 0, range(2))
    room.add_findings([finding(0)])
    assert room.conclude(finding(0)).worker is None
    keys.set("diagnosis/1", "{")
    assert room.await_diagnosis() is None


def test_resting_is_told_to_all_once_for_each_that_asks():
    keys = HashStore()
    one, other = (HangInvestigation(keys, 1, index, range(2)) for index in range(2))
    assert not other.someone_rested()
    one.report_resting()
    assert other.someone_rested()
    assert not other.someone_rested()


def test_the_first_cause_is_kept():
    keys = HashStore()
    keys.set_timeout(timedelta(seconds=1))
    first = diagnose([finding(0, **STUCK)], (), finding(0)).cause
    assert leave_cause(keys, 3, first, 0) == first
    assert leave_cause(keys, 3, diagnose([finding(1, **STUCK)], (), finding(1)).cause, 1) == first
    assert read_cause(keys, 3) == first
    assert read_cause(keys, 4) is None
    gone = SimpleNamespace(check=lambda _: (_ for _ in ()).throw(RuntimeError))
    assert read_cause(gone, 3) is None
