"""Workers that cannot all be placed in time are given back, with a word on who and why, and tried again."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, failed, job, observed, pod, report, running_job

from trainwright.api.status import Phase
from trainwright.plan import plan

NO_ROOM = ("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
LATE = NOW + timedelta(seconds=60)


def decide(before, *pods, **fields):
    decision = plan(observed(before, *pods, **fields))
    return replace(before, status=decision.status or before.status), decision


def half_started(**fields):
    started, _ = decide(job(startDeadlineSeconds=60, **fields))
    stuck = replace(pod(1, phase="Pending", waiting=NO_ROOM), node=None)
    waiting, decision = decide(started, pod(0), stuck)
    assert decision.requeue_after == pytest.approx(60)
    return waiting, (pod(0), stuck)


def test_half_a_start_is_given_back_and_said():
    waiting, pods = half_started()
    given_up, decision = decide(waiting, *pods, now=LATE)
    status = given_up.status
    assert (status.phase, status.attempt, status.oldest_attempt, status.restarts) == (Phase.PENDING, 2, 2, 0)
    assert (decision.create, decision.delete) == ((), ())
    assert status.reason == "StartDeadlineExceeded"
    assert status.message.startswith(
        "worker 1 of 2 did not run within 60 s (spec.startDeadlineSeconds): Unschedulable: 0/3 nodes are available: 3 "
        "Insufficient nvidia.com/gpu.; all pods were given back; try 2: waiting until "
    )
    assert [(event.reason, event.warning) for event in decision.events] == [("StartDeadlineExceeded", True)]
    _, carried_out = decide(given_up, *pods, now=LATE)
    assert {deletion.name for deletion in carried_out.delete} == {"digits-0-1", "digits-1-1"}
    assert carried_out.create == ()
    wait = (status.next_start - LATE).total_seconds()
    assert 9 <= wait <= 20
    assert carried_out.requeue_after == pytest.approx(wait)


def test_the_next_try_has_the_whole_deadline_again_and_a_longer_wait():
    given_up, _ = decide(*half_started_flat(), now=LATE)
    begin = given_up.status.next_start
    pods = (pod(0, attempt=2), replace(pod(1, attempt=2, phase="Pending", waiting=NO_ROOM), node=None))
    again, decision = decide(given_up, *pods, now=begin + timedelta(seconds=59))
    assert again.status.attempt == 2
    assert decision.requeue_after == pytest.approx(1)
    assert "Unschedulable" in again.status.reason
    twice, _ = decide(again, *pods, now=begin + timedelta(seconds=60))
    assert twice.status.starts_given_up == 2
    assert 19 <= (twice.status.next_start - begin).total_seconds() - 60 <= 40


def half_started_flat():
    waiting, pods = half_started()
    return (waiting, *pods)


def test_a_start_that_succeeds_forgets_the_ones_that_did_not():
    given_up, _ = decide(*half_started_flat(), now=LATE)
    pods = (pod(0, attempt=2), pod(1, attempt=2))
    running, _ = decide(given_up, *pods, now=LATE + timedelta(seconds=30), report=report(1, attempt=2))
    assert (running.status.phase, running.status.starts_given_up, running.status.waiting_since) == (
        Phase.RUNNING,
        0,
        None,
    )


def test_a_replacement_that_finds_no_room_has_the_others_save_and_go():
    running = running_job(startDeadlineSeconds=60)
    lost = replace(pod(1), phase="Failed", exit_code=137)
    restarting, _ = decide(running, pod(0), lost)
    stuck = replace(pod(1, attempt=2, phase="Pending", waiting=NO_ROOM), node=None)
    waiting, _ = decide(restarting, pod(0), stuck)
    given_up, _ = decide(waiting, pod(0), stuck, now=LATE)
    assert (given_up.status.attempt, given_up.status.oldest_attempt, given_up.status.restarts) == (3, 3, 1)
    _, decision = decide(given_up, pod(0), stuck, now=LATE)
    assert {deletion.name for deletion in decision.delete} == {"digits-0-1", "digits-1-2"}


def test_without_a_deadline_or_once_all_run_nothing_is_given_back():
    waiting, pods = half_started()
    patient = replace(waiting, spec=job().spec)
    assert plan(observed(patient, *pods, now=NOW + timedelta(days=9))).status is None
    running = running_job(startDeadlineSeconds=60)
    later = plan(observed(running, pod(0), pod(1), now=NOW + timedelta(days=9))).status
    assert (later.attempt, later.starts_given_up) == (1, 0)


def test_what_the_cluster_refuses_to_create_is_the_reason_too():
    started, _ = decide(job(startDeadlineSeconds=60))
    given_up, _ = decide(started, rejection="exceeded quota: pods=10", now=LATE)
    assert "workers 0, 1 of 2 did not run" in given_up.status.failure.message
    assert "exceeded quota: pods=10" in given_up.status.failure.message


def test_jobs_that_gave_up_together_do_not_come_back_together():
    waits = set()
    for number in range(50):
        waiting, pods = half_started()
        given_up, _ = decide(replace(waiting, uid=f"uid-{number}"), *pods, now=LATE)
        waits.add(round((given_up.status.next_start - LATE).total_seconds(), 1))
    assert len(waits) > 25


def test_a_crash_in_the_next_try_is_told_as_the_restart_that_it_is():
    given_up, _ = decide(*half_started_flat(), now=LATE)
    begin = given_up.status.next_start
    crashed, _ = decide(given_up, pod(0, attempt=2), failed(1, attempt=2), now=begin)
    status = crashed.status
    assert (status.phase, status.starts_given_up, status.restarts) == (Phase.RESTARTING, 1, 1)
    assert status.reason == "Restarting"
    assert "it is replaced and the others wait: restart 1, 1 of at most 3" in status.message
