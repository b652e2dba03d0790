"""What is tried again, how often, and after what wait."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, failed, observed, pod, report, running_job

from trainwright.api.exit_codes import RETRYABLE, ExitCode, FailureClass
from trainwright.api.spec.restart import OnFailureSpec, Reaction
from trainwright.api.status import Checkpoint, Phase
from trainwright.plan import plan


def saved(step):
    return Checkpoint(step=step, path=f"/checkpoints/{step}", bytes=1, sha256="0" * 64, saved_at=NOW)


def with_status(job, **fields):
    return replace(job, status=job.status.model_copy(update=fields))


def fail_and_recover(job, attempt, casualty, checkpoint=None, now=NOW):
    """Return the job after a failure that was answered by a partial restart and some training since."""
    decided = plan(observed(job, pod(0), casualty, now=now)).status
    if decided.phase == Phase.FAILED:
        return replace(job, status=decided)
    again = report(10, launch=f"launch-{attempt}", checkpoints=[saved(checkpoint)] if checkpoint else [])
    pods = (pod(0), pod(1, attempt=attempt))
    later = now + timedelta(minutes=10)
    return replace(job, status=plan(observed(replace(job, status=decided), *pods, report=again, now=later)).status)


def lives(job, failures, code=ExitCode.INFRASTRUCTURE, checkpoints=None):
    for number in range(failures):
        casualty = failed(1, attempt=number + 1, code=code)
        step = checkpoints(number) if checkpoints else None
        job = fail_and_recover(job, number + 2, casualty, step, NOW + timedelta(hours=number))
        if job.status.phase == Phase.FAILED:
            break
    return job.status


def test_failures_without_progress_end_at_the_limit():
    job = running_job(restart={"limit": 3})
    status = lives(job, 3)
    assert (status.phase, status.restarts, status.restarts_without_progress) == (Phase.RUNNING, 3, 3)
    ended = lives(job, 4)
    assert ended.phase == Phase.FAILED
    assert "gave up after 3 restarts without progress (spec.restart.limit)" in ended.message


def test_a_checkpoint_beyond_the_former_best_starts_the_count_anew():
    status = lives(running_job(restart={"limit": 1}), 20, checkpoints=lambda number: 100 * (number + 1))
    assert (status.phase, status.restarts, status.restarts_without_progress) == (Phase.RUNNING, 20, 1)


def test_the_same_checkpoint_reached_again_is_no_progress():
    status = lives(running_job(restart={"limit": 3}), 9, checkpoints=lambda number: 100 + number % 2)
    # The first failure came before any checkpoint, the next two after checkpoints 100 and 101; then nothing was new.
    assert (status.phase, status.restarts, status.saved_step) == (Phase.FAILED, 5, 101)


def test_preemptions_never_count():
    status = lives(running_job(restart={"limit": 0}), 30, code=ExitCode.PREEMPTED)
    assert (status.phase, status.restarts, status.restarts_without_progress) == (Phase.RUNNING, 30, 0)
    told = plan(observed(running_job(), pod(0), failed(1, code=ExitCode.PREEMPTED))).status
    assert "restart 1, which counts against no limit" in told.message


def test_preemptions_in_quick_succession_wait_a_moment():
    once = plan(observed(running_job(), pod(0), failed(1, code=ExitCode.PREEMPTED))).status
    assert once.next_start is None
    soon = NOW + timedelta(seconds=20)
    again = replace(running_job(), status=once)
    twice = plan(observed(again, pod(0), failed(1, attempt=2, code=ExitCode.PREEMPTED), now=soon)).status
    assert twice.next_start == soon + timedelta(seconds=5)
    late = NOW + timedelta(seconds=60)
    assert (
        plan(observed(again, pod(0), failed(1, attempt=2, code=ExitCode.PREEMPTED), now=late)).status.next_start is None
    )


@pytest.mark.parametrize(("count", "seconds"), [(0, None), (1, 8), (2, 16), (3, 32), (20, 300)])
def test_the_wait_doubles_with_restarts_without_progress_only(count, seconds):
    job = with_status(
        running_job(restart={"backoffSeconds": 8, "limit": 100}), restarts=50, restarts_without_progress=count
    )
    status = plan(observed(job, pod(0), failed(1))).status
    assert status.next_start == (None if seconds is None else NOW + timedelta(seconds=seconds))
    assert f"restart 51, {count + 1} of at most 100 without progress" in status.message


@pytest.mark.parametrize("code", [code for code in ExitCode if code != ExitCode.SUCCESS])
@pytest.mark.parametrize("reaction", ["restart", "fail", None])
def test_each_class_of_failure_has_its_reaction(code, reaction):
    casualty = failed(1, code=code)
    category = casualty.termination.category
    wanted = {} if reaction is None else {"onFailure": {str(category): reaction}}
    status = plan(observed(running_job(restart=wanted), pod(0), casualty)).status
    restarts = reaction == "restart" or (reaction is None and category in RETRYABLE)
    assert status.phase == (Phase.RESTARTING if restarts else Phase.FAILED)
    said = f"(spec.restart.onFailure.{category}: fail)" in status.message
    assert said == (reaction == "fail" and category in RETRYABLE)


def test_there_is_a_reaction_for_every_class():
    for category in FailureClass:
        assert (OnFailureSpec().to(category) == Reaction.RESTART) == (category in RETRYABLE)


def test_restarts_inside_the_pods_count_too():
    job = running_job()
    before = job.status
    pods = (pod(0), pod(1))
    status = plan(observed(job, *pods, report=report(11, launch="b", resumed_from_step=10))).status
    assert (status.restarts, status.restarts_without_progress) == (before.restarts + 1, 1)
    kept = with_status(job, checkpoints=[saved(10)])
    status = plan(observed(kept, *pods, report=report(11, launch="b", resumed_from_step=10))).status
    assert (status.restarts_without_progress, status.saved_step) == (1, 10)
