"""The rules that a chaos run is held against: each must speak up when it is broken, and only then."""

import copy

import pytest
from history import LONGEST_SILENCE, Fault, History

RUNNING = {
    "phase": "Running",
    "attempt": 2,
    "restarts": 1,
    "restartsWithoutProgress": 1,
    "progress": {"step": 100, "replayedSteps": 10},
    "goodput": {"training": 50, "restarting": 4, "starting": 6, "until": "2026-01-01T00:01:00Z"},
}


def job(**changes):
    spec = {"workers": {"count": 2}, "restart": {"limit": 3}}
    return {"metadata": {"name": "j", "uid": "u"}, "spec": spec, "status": copy.deepcopy(RUNNING) | changes}


def pod(index, attempt, phase="Running", **meta):
    labels = {"trainwright.dev/job-name": "j", "trainwright.dev/worker-index": str(index)}
    owner = [{"uid": "u"}]
    return {
        "metadata": {"name": f"j-{index}-{attempt}", "uid": f"{index}/{attempt}", "labels": labels, **meta}
        | {"ownerReferences": owner},
        "status": {"phase": phase},
    }


def ledger(**changes):
    return RUNNING["goodput"] | changes


@pytest.fixture
def history():
    history = History()
    history.job_seen(job(), 0)
    return history


@pytest.mark.parametrize(
    "now",
    [
        {"phase": "Succeeded"},
        {"phase": "Restarting", "restarts": 2, "attempt": 3},
        {"progress": {"step": 40, "replayedSteps": 70}},
        {"goodput": ledger(training=60, until="2026-01-01T00:01:10Z")},
    ],
)
def test_what_may_follow(history, now):
    history.job_seen(job(**now), 5)
    assert history.violations == []


@pytest.mark.parametrize(
    ("now", "wrong"),
    [
        ({"phase": "Pending"}, "went from Running to Pending"),
        ({"attempt": 1}, "attempt fell from 2 to 1"),
        ({"restarts": 0}, "restarts fell from 1 to 0"),
        ({"restartsWithoutProgress": 4}, "4 restarts without progress, of at most 3"),
        ({"progress": {"step": 40, "replayedSteps": 69}}, "step fell unexplained"),
        ({"goodput": ledger(training=60, until="2026-01-01T00:01:09Z")}, "charges 10 s for 9 s"),
        ({"goodput": ledger(until="2026-01-01T00:00:50Z")}, "charges 0 s for -10 s"),
    ],
)
def test_what_must_not_follow(history, now, wrong):
    history.job_seen(job(**now), 5)
    assert len(history.violations) == 1
    assert wrong in history.violations[0]


def test_what_has_ended_stays_so_even_if_much_was_missed(history):
    history.relisted("jobs", [job(phase="Succeeded")], 5)
    history.relisted("jobs", [job(phase="Running")], 9)
    assert "went from Succeeded to Running" in history.violations[0]


def test_phases_that_nobody_could_see_are_not_held_against_a_job(history):
    history.relisted("jobs", [job(phase="Pending")], 5)
    assert history.violations == []


def test_silence_counts_only_while_there_is_somebody_to_hear(history):
    history.relisted("jobs", [job()], LONGEST_SILENCE * 2)
    assert history.violations == []
    history.close(LONGEST_SILENCE * 2 + 7)
    assert (history.violations, history.longest_silence) == ([], 7)
    history.close(LONGEST_SILENCE * 4)
    assert "said nothing for" in history.violations[0]


def test_two_live_pods_of_a_worker_are_one_too_many(history):
    for each in (pod(0, 1), pod(1, 1), pod(1, 1, deletionTimestamp="now"), pod(1, 2), pod(0, 1, "Failed"), pod(0, 2)):
        history.pod_seen(each)
    assert history.violations == []
    history.pod_seen(pod(1, 3))
    assert history.violations == ["j: 2 live pods of worker 1 of 2"]
    history.relisted("pods", [pod(2, 1)], 5)
    assert history.violations[1:] == ["j: 1 live pods of worker 2 of 2"]


def test_what_is_lost_is_charged_to_what_was_last_done(history):
    history.job_seen(job(restarts=2, failure={"message": "worker 1 is gone"}), 1)
    assert history.surprises == ["j was restarted: worker 1 is gone"]
    fault, other = Fault("rank killed", "j"), Fault("rank killed", "another")
    history.struck(fault)
    history.struck(other)
    lost = ledger(restarting=9, starting=8, until="2026-01-01T00:01:07Z")
    history.job_seen(job(restarts=3, goodput=lost, progress={"step": 90, "replayedSteps": 25}), 2)
    assert (fault.seconds, fault.restarts, fault.replayed) == (7, 1, 15)
    assert (other.seconds, history.unexplained.restarts, len(history.surprises)) == (0, 1, 1)
    assert history.violations == []
