"""Several releases may see a job: one drives it."""

from dataclasses import replace

import pytest
from situations import SETTINGS, job, observed, pod, running_job

from trainwright.api.status import Phase, TrainingJobStatus
from trainwright.plan import plan
from trainwright.plan.ownership import LOOK
from trainwright.plan.types import Plan

OURS, OTHER = "system/trainwright", "elsewhere/trainwright"
RELEASE = replace(SETTINGS, release=OURS)


def test_the_first_write_names_the_release_and_makes_nothing():
    chosen = plan(observed(job(), settings=RELEASE))
    assert chosen.status.operator == OURS
    assert chosen.create == ()


STATUSES = {
    "new": TrainingJobStatus(operator=OTHER),
    "running": running_job().status.changed(operator=OTHER),
    "ended": TrainingJobStatus(operator=OTHER, phase=Phase.FAILED),
}


@pytest.mark.parametrize("status", STATUSES.values(), ids=STATUSES)
def test_a_job_of_another_release_is_left_alone(status):
    assert plan(observed(job(status), pod(0), settings=RELEASE)) == Plan(requeue_after=LOOK)


def test_a_job_that_is_deleted_or_invalid_is_left_to_its_release_too():
    status = TrainingJobStatus(operator=OTHER, attempt=1)
    for other in (replace(job(status), deleting=True), job(status, ttl_seconds_after_finished=0)):
        assert plan(observed(other, settings=RELEASE)) == Plan(requeue_after=LOOK)


def test_the_jobs_of_a_release_that_is_gone_are_taken_over_without_a_restart():
    status = running_job().status.changed(operator=OTHER)
    chosen = plan(observed(job(status), pod(0), pod(1), settings=RELEASE, operator_gone=True))
    assert chosen.status.operator == OURS
    assert chosen.status.attempt == status.attempt
    assert (chosen.delete, chosen.create) == ((), ())


def test_a_job_of_a_version_that_named_no_release_is_taken_over():
    chosen = plan(observed(running_job(), pod(0), pod(1), settings=RELEASE))
    assert chosen.status.operator == OURS


def test_where_there_is_one_release_nobody_is_named():
    assert plan(observed(job())).status.operator == ""
