"""When a worker's watchdog holds one of its ranks for hung, and when it must not."""

import os

import pytest

from trainwright.api.exit_codes import ExitCode, FailureClass
from trainwright.api.spec.health import HangSpec
from trainwright_worker.agent import watchdog
from trainwright_worker.agent.hang_diagnosis import RankFinding, diagnose
from trainwright_worker.agent.stacks import ProcessState
from trainwright_worker.agent.watchdog import Watchdog, WatchedRank
from trainwright_worker.reporting.pulse import Pulse


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

    def report_resting(self):
        self.told += 1

    def someone_rested(self):
        return self.resting

    def open(self):
        return True

    def add_findings(self, findings):
        self.heard = list(findings)

    def conclude(self, noticed):
        return diagnose(self.heard, (), noticed)

    def await_diagnosis(self):
        return None


class Watch:
    """A watchdog whose clock stands until it is told to go on."""

    def __init__(self, monkeypatch, tmp_path, **spec):
        self.clock, self.peers = Clock(), Peers()
        monkeypatch.setattr(watchdog, "time", self.clock)
        self.pulses = [Pulse(), Pulse()]
        ranks = [WatchedRank(rank, os.getpid(), pulse) for rank, pulse in enumerate(self.pulses)]
        self.dog = Watchdog(HangSpec(**spec), 0, ranks, tmp_path, self.peers)

    def go_on(self, seconds):
        """Return the first diagnosis within so many seconds, with the seconds that went by."""
        for tick in range(int(seconds * 20)):
            self.clock.now += 0.05
            diagnosis = self.dog.look()
            if diagnosis is not None:
                return diagnosis, (tick + 1) / 20
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
    diagnosis, seconds = watch.go_on(1)
    assert seconds < 0.5
    assert diagnosis.cause.category == FailureClass.HANG
    assert diagnosis.worker == 0


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
    monkeypatch.setattr(watchdog, "state_of", lambda _: ProcessState.STOPPED)
    diagnosis, seconds = watch.go_on(30)
    assert 9 < seconds < 13
    assert "stopped (SIGSTOP)" in diagnosis.cause.message


def test_watching_can_be_switched_off(monkeypatch, tmp_path):
    watch = Watch(monkeypatch, tmp_path, enabled=False)
    expect(watch, 15.0, 15.0)
    assert watch.go_on(100) is None


def test_an_investigation_of_another_worker_is_joined_within_a_second(watch):
    expect(watch, 15.0, 15.0)
    watch.peers.opened = True
    diagnosis, seconds = watch.go_on(2)
    assert seconds <= 1.1
    assert [finding.rank for finding in watch.peers.heard] == [0, 1]
    assert diagnosis.cause.exit_code == ExitCode.HANG


def finding(rank, state=ProcessState.ALIVE, *, waits=True, worker=None, location="all_reduce (c10d.py:1)"):
    worker = rank if worker is None else worker
    return RankFinding(worker=worker, rank=rank, step=7, seconds=15.2, state=state, waits=waits, location=location)
