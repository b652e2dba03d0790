"""How a job ends or stops for a while, and what is said of it afterwards."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import (
    LAST,
    NOW,
    RESULTS,
    SUCCEEDED,
    failed,
    job,
    names,
    observed,
    pod,
    report,
    running_job,
    spec,
    status_after,
    truth,
)

from trainwright.api.exit_codes import ExitCode
from trainwright.api.job import FieldError, InvalidJobError
from trainwright.api.status import ConditionType, Phase
from trainwright.api.worker import Termination, WorkerPhase
from trainwright.plan import Plan, limits, plan

HOUR = timedelta(hours=1)


def listed(status):
    return [(worker.index, worker.phase) for worker in status.workers.pods]


def test_suspension_saves_waits_and_resumes_as_a_new_attempt():
    resumed = running_job()
    running = replace(resumed, spec=job(suspend=True).spec)
    pods = (pod(0), pod(1))
    suspending = plan(observed(running, *pods, report=report(20)))
    assert suspending.status.phase == Phase.SUSPENDED
    assert suspending.status.reason == "Suspending"
    assert truth(suspending.status, ConditionType.SUSPENDED) is None
    # Whoever resumes before that is written finds the workers as they were, and not a restart of our own making.
    assert suspending.delete == ()
    leaving = plan(observed(replace(running, status=suspending.status), *pods, report=report(20)))
    assert [deletion.name for deletion in leaving.delete] == ["digits-0-1", "digits-1-1"]
    gone = plan(observed(replace(running, status=suspending.status)))
    assert truth(gone.status, ConditionType.SUSPENDED) == "True"
    begun = plan(observed(replace(resumed, status=gone.status)))
    assert (begun.status.attempt, begun.status.restarts, begun.status.phase) == (2, 0, Phase.PENDING)
    assert names(plan(observed(replace(resumed, status=begun.status)))) == ["digits-0-2", "digits-1-2"]


def test_success_is_worker_0s_word_and_carries_its_last_report():
    last = report(100, phase=WorkerPhase.FINISHED)
    leader = pod(0, phase="Succeeded", exit_code=0, termination=Termination(exit_code=0, report=last), finished_at=NOW)
    decision = plan(observed(running_job(), leader, pod(1)))
    status = decision.status
    assert status.phase == Phase.SUCCEEDED
    assert (status.progress.percent, status.progress.eta) == (100, None)
    assert truth(status, ConditionType.COMPLETE) == "True"
    assert decision.delete == ()
    finished = replace(running_job(), status=status)
    late = NOW + timedelta(seconds=31)
    assert [d.name for d in plan(observed(finished, leader, pod(1), now=late)).delete] == ["digits-1-1"]


def test_an_image_that_is_no_worker_trains_nothing_however_well_it_ends():
    started = replace(job(workers=1), status=status_after(plan(observed(job(workers=1)))))
    silent = pod(0, phase="Succeeded", image="python:3.12", exit_code=0, reason="Completed", finished_at=NOW)
    status = plan(observed(started, silent)).status
    assert (status.phase, status.reason, status.failure.category) == (Phase.FAILED, "UserError", "UserError")
    assert (
        "code 0 and no termination message: the image python:3.12 does not start Trainwright's worker" in status.message
    )
    assert "ENTRYPOINT" in status.failure.hint
    assert truth(status, ConditionType.FAILED) == "True"


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (running_job(workers=1), {}),
        (None, {"termination": Termination(exit_code=0)}),
        (None, {"garbled": True}),
    ],
    ids=["reported before", "last word", "last word of another version"],
)
def test_one_word_of_worker_0_is_enough_for_success(before, said):
    started = replace(job(workers=1), status=status_after(plan(observed(job(workers=1)))))
    leader = pod(0, phase="Succeeded", exit_code=0, finished_at=NOW, **said)
    assert plan(observed(before or started, leader)).status.phase == Phase.SUCCEEDED


def test_deadline_stops_the_job():
    running = running_job(activeDeadlineSeconds=60)
    waiting = plan(observed(running, pod(0), pod(1)))
    assert waiting.requeue_after == pytest.approx(60)
    over = plan(observed(running, pod(0), pod(1), now=NOW + timedelta(seconds=60)))
    assert over.status.phase == Phase.FAILED
    assert over.status.reason == "DeadlineExceeded"
    assert len(over.delete) == 2


def test_a_deadline_that_ends_a_wait_says_what_was_waited_for():
    started = replace(job(activeDeadlineSeconds=60), status=plan(observed(job(activeDeadlineSeconds=60))).status)
    stuck = [pod(i, phase="Pending", waiting=("Unschedulable", "0/3 nodes are available")) for i in range(2)]
    waiting = replace(started, status=plan(observed(started, *stuck)).status)
    failure = plan(observed(waiting, *stuck, now=NOW + timedelta(seconds=60))).status.failure
    assert failure.message == (
        "not done within 60 s (spec.activeDeadlineSeconds); until then: "
        "2 of 2 workers unschedulable: 0/3 nodes are available"
    )
    assert "save" not in failure.hint


def test_a_job_that_is_resumed_has_all_of_its_deadline_again():
    running = running_job(activeDeadlineSeconds=60)
    halted = replace(running, spec=spec(workers={"count": 2}, activeDeadlineSeconds=60, suspend=True))
    halted = replace(halted, status=plan(observed(halted, now=NOW + timedelta(seconds=50))).status)
    resumed = replace(running, status=plan(observed(replace(running, status=halted.status), now=NOW + HOUR)).status)
    assert resumed.status.phase == Phase.PENDING
    assert limits.deadline(resumed.spec, resumed.status) == NOW + HOUR + timedelta(seconds=60)


def test_time_to_live_ends_with_the_job_deleted():
    finished = running_job(ttlSecondsAfterFinished=100)
    status = finished.status.model_copy(update={"phase": Phase.SUCCEEDED, "finished_at": NOW})
    finished = replace(finished, status=status)
    assert plan(observed(finished)).requeue_after == pytest.approx(100)
    assert plan(observed(finished, now=NOW + timedelta(seconds=100))).delete_job


def test_a_restart_decided_while_worker_0_wrote_the_results_hides_nothing_of_them():
    before = running_job(93)
    restarting = plan(observed(before, pod(0), failed(1))).status
    assert (restarting.phase, restarting.progress.ended_launch) == (Phase.RESTARTING, LAST.launch)
    over = plan(observed(replace(before, status=restarting), SUCCEEDED, pod(1, attempt=2))).status
    assert (over.phase, over.progress.step, over.results) == (Phase.SUCCEEDED, 100, RESULTS)


@pytest.mark.parametrize("fields", [{}, {"spec": InvalidJobError([FieldError("spec", "is wrong")])}])
def test_a_deleted_job_that_a_finalizer_holds_saves_stops_and_says_so(fields):
    deleted = replace(running_job(), deleting=True, **fields)
    stopping = plan(observed(deleted, pod(0), pod(1)))
    assert {deletion.name for deletion in stopping.delete} == {"digits-0-1", "digits-1-1"}
    assert (stopping.status.phase, stopping.status.reason) == (Phase.SUSPENDED, "Deleting")
    assert stopping.status.message == "being deleted: 2 workers still saving and stopping"
    leaving = [replace(pod(i), deletes_at=NOW + timedelta(seconds=60)) for i in range(2)]
    waiting = replace(deleted, status=stopping.status)
    again = plan(observed(waiting, *leaving))
    assert (again.delete, again.requeue_after) == ((), pytest.approx(65))
    assert plan(observed(replace(waiting, status=again.status), *leaving)).status is None
    over = plan(observed(waiting))
    assert over.status.message.startswith("being deleted; no worker holds resources")
    assert plan(observed(replace(waiting, status=over.status))) == Plan()


def test_a_deleted_job_that_has_ended_is_not_deleted_again():
    ended = plan(observed(running_job(ttlSecondsAfterFinished=0), SUCCEEDED, pod(1, phase="Succeeded"))).status
    held = replace(running_job(ttlSecondsAfterFinished=0), status=ended, deleting=True)
    assert not plan(observed(held, now=NOW + timedelta(hours=1))).delete_job


def test_an_undisturbed_success_speaks_of_its_workers_once():
    running = running_job()
    over = plan(observed(running, SUCCEEDED, pod(1))).status
    assert (listed(over), over.workers.ready) == ([(0, "Succeeded"), (1, "Succeeded")], 2)
    finished = replace(running, status=over)
    assert plan(observed(finished, SUCCEEDED, pod(1))).status is None
    assert plan(observed(finished, SUCCEEDED, pod(1, phase="Succeeded"))).status is None
    assert plan(observed(finished)).status is None


def test_what_became_of_the_workers_of_a_failed_job_is_said_once_they_have_ended():
    running = running_job()
    casualty = failed(1, code=ExitCode.USER_ERROR)
    over = plan(observed(running, pod(0), casualty)).status
    leaving = replace(pod(0), deletes_at=NOW + timedelta(seconds=60))
    waiting = plan(observed(replace(running, status=over), leaving, casualty))
    assert waiting.status is None
    late = NOW + timedelta(seconds=90)  # on a dead node it stays so for ever
    assert plan(observed(replace(running, status=over), leaving, casualty, now=late)) == Plan()
    last = plan(observed(replace(running, status=over), casualty)).status
    assert (listed(last), last.workers.ready, last.summary.workers) == ([(1, "Failed")], 0, "0/2")
    assert plan(observed(replace(running, status=last), casualty)).status is None
    assert plan(observed(replace(running, status=last))).status is None
