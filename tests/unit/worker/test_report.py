import socket
import time

import pytest

from trainwright.api.worker import MOST_HEARTBEATS, ReportsEndpoint, WorkerPhase
from trainwright_worker.reporting.pulse import Pulse
from trainwright_worker.reporting.report import Reporter, first_report


@pytest.fixture
def silent_endpoint(tmp_path):
    """An endpoint that takes connections and never answers."""
    (tmp_path / "token").write_text("t")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        yield ReportsEndpoint(url=url, ca_file="", token_file=str(tmp_path / "token"), interval_seconds=0.01)


def test_a_silent_endpoint_holds_up_nothing(silent_endpoint):
    reporter = Reporter(silent_endpoint, first_report("u", 1, "l"), Pulse())
    began = time.monotonic()
    for step in range(1000):
        reporter.update(step=step, phase=WorkerPhase.TRAINING if step % 2 else WorkerPhase.EVALUATING)
    assert time.monotonic() - began < 1
    last = reporter.close(0.2)
    assert last.step == 999
    assert time.monotonic() - began < 3


def test_heartbeats_age_when_a_rank_stands_still():
    pulse = Pulse()
    reporter = Reporter(None, first_report("u", 1, "l"), pulse)
    pulse.step = pulse.moves = 1
    first = reporter._heartbeats()[0]
    again = reporter._heartbeats()[0]
    assert (first.step, first.rank) == (1, 0)
    assert again.seconds_ago >= first.seconds_ago
    pulse.moves += 1
    assert reporter._heartbeats()[0].seconds_ago == 0
    reporter.close()


def test_of_many_ranks_those_are_told_that_have_stood_still_for_longest():
    reporter = Reporter(None, first_report("u", 1, "l"), Pulse())
    now = time.monotonic()
    reporter._beats = {rank: (rank, rank, now - rank) for rank in range(10_000)}
    told = reporter._heartbeats()
    assert [beat.rank for beat in told] == list(range(10_000 - MOST_HEARTBEATS, 10_000))
    assert told[-1].step == 9_999
    assert told[-1].seconds_ago >= 9_999
    reporter.close()


def test_sequences_rise_over_launches_even_if_the_clock_is_set_back(monkeypatch):
    pulse = Pulse()
    first = Reporter(None, first_report("u", 1, "a"), pulse)
    last = first.close()
    assert last.sequence == pulse.sequence
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 300)
    later = Pulse(sequence=pulse.sequence)
    second = Reporter(None, first_report("u", 1, "b"), later)
    assert second.close().newer_than(last)


def test_sequences_rise_even_if_the_clock_stands_still(monkeypatch):
    reporter = Reporter(None, first_report("u", 1, "l"), Pulse())
    reporter.close()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    before = reporter.report.sequence
    reporter._send()
    reporter._send()
    assert reporter.report.sequence == before + 2
