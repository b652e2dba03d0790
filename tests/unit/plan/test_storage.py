"""What a pod's own storage held is gone with the pod, and nothing claims otherwise."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, SETTINGS, failed, job, observed, pod, report, running_job, spec

from trainwright.api.exit_codes import ExitCode
from trainwright.api.status import Checkpoint, Phase
from trainwright.plan import plan

SAVED = [Checkpoint(step=40, path="/checkpoints/x/step-00000040", bytes=1, sha256="a" * 64, saved_at=NOW)]
CREW = (pod(0), pod(1))
DURABLE = {"checkpoint": {"persistentVolumeClaim": "checkpoints"}}
LOCAL = {"settings": replace(SETTINGS, pods_leave_files=True)}


def decide(before, *pods, **fields):
    status = plan(observed(before, *pods, **fields)).status
    return before if status is None else replace(before, status=status)


def suspended(fields, **seen):
    running = replace(running_job(), spec=spec(workers={"count": 2}, suspend=True, **fields))
    said = {"report": report(40, checkpoints=SAVED), **seen}
    leaving = decide(running, *CREW, **said)
    return leaving, decide(leaving, now=NOW + timedelta(seconds=60), **said)


def test_a_suspension_without_durable_storage_says_that_all_is_lost():
    leaving, gone = suspended({})
    assert (
        "it will start from the beginning, because its checkpoints are deleted with worker 0's pod"
        in leaving.status.message
    )
    assert leaving.status.checkpoints == SAVED
    assert "it will start from the beginning" in gone.status.message
    assert "saved;" not in gone.status.message
    assert gone.status.checkpoints == []
    assert gone.status.reason == "Suspended"
    resumed = decide(replace(gone, spec=job().spec))
    assert (resumed.status.phase, resumed.status.checkpoints) == (Phase.PENDING, [])


@pytest.mark.parametrize(("fields", "seen"), [(DURABLE, {}), ({}, LOCAL)])
def test_what_outlives_the_pods_is_saved(fields, seen):
    leaving, gone = suspended(fields, **seen)
    assert gone.status.message == "suspended (spec.suspend) at step 40, which is saved; no worker holds resources"
    assert gone.status.checkpoints == SAVED
    assert "anew" not in leaving.status.message


def test_a_suspension_before_the_first_step_loses_nothing():
    new = decide(job())
    gone = decide(replace(new, spec=spec(workers={"count": 2}, suspend=True)))
    assert gone.status.message == "suspended (spec.suspend); no worker holds resources"


@pytest.mark.parametrize(("fields", "kept"), [({}, []), (DURABLE, SAVED)])
def test_the_loss_of_worker_0_takes_its_checkpoints_along(fields, kept):
    running = decide(running_job(**fields), *CREW, report=report(50, checkpoints=SAVED))
    assert running.status.checkpoints == SAVED
    restarting = decide(running, failed(0), pod(1), report=report(50, checkpoints=SAVED))
    assert restarting.status.checkpoints == kept
    assert ("it will start from the beginning" in restarting.status.message) == (not kept)
    # They count all the same: to replay what was saved once is no progress.
    assert restarting.status.saved_step == 40


def test_the_loss_of_another_worker_takes_nothing_along():
    running = decide(running_job(), *CREW, report=report(50, checkpoints=SAVED))
    restarting = decide(running, pod(0), failed(1))
    assert restarting.status.checkpoints == SAVED
    assert "anew" not in restarting.status.message


def test_a_job_that_failed_lists_nothing_that_is_gone():
    running = decide(running_job(budget={"workerHours": 1}), *CREW, report=report(50, checkpoints=SAVED))
    stopping = decide(running, *CREW, now=NOW + timedelta(hours=1))
    over = decide(stopping, now=NOW + timedelta(hours=2))
    assert "step 40 was saved in worker 0's scratch space and is gone with it" in over.status.failure.message
    assert over.status.checkpoints == []


def test_what_is_saved_after_the_deadline_is_listed():
    running = decide(running_job(activeDeadlineSeconds=60, **DURABLE), *CREW, report=report(50, checkpoints=SAVED))
    over = NOW + timedelta(seconds=61)
    stopped = decide(running, *CREW, report=report(50, checkpoints=SAVED), now=over)
    assert (stopped.status.phase, stopped.status.checkpoints) == (Phase.FAILED, SAVED)
    newer = [SAVED[0].model_copy(update={"step": 61}), *SAVED]
    ended = [failed(0, code=ExitCode.PREEMPTED), failed(1, code=ExitCode.PREEMPTED)]
    gone = decide(stopped, *ended, report=report(61, checkpoints=newer), now=over + timedelta(seconds=5))
    assert (gone.status.phase, gone.status.progress.step) == (Phase.FAILED, 61)
    assert gone.status.checkpoints == newer
