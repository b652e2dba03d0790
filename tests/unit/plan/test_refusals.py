"""A job that is not accepted: a spec that nobody can read, a service account that it may not have."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import (
    NOW,
    SETTINGS,
    SUCCEEDED,
    failed,
    job,
    names,
    observed,
    pod,
    report,
    running_job,
    spec,
    truth,
)

from trainwright.api.job import FieldError, InvalidJobError
from trainwright.api.status import ConditionType, Phase
from trainwright.plan import Plan, plan

BROKEN = InvalidJobError([FieldError("spec.model.args.hiden", "unknown field")])

ADMIN = {"count": 2, "serviceAccountName": "admin"}


def test_invalid_spec_is_a_condition_and_disturbs_nothing():
    broken = InvalidJobError([FieldError("spec.model.args.hiden", "unknown field")])
    fresh = replace(job(), spec=broken)
    refused = plan(observed(fresh))
    assert truth(refused.status, ConditionType.ACCEPTED) == "False"
    assert "spec.model.args.hiden" in refused.status.message
    assert plan(observed(replace(fresh, status=refused.status))) == Plan()
    running = replace(running_job(), spec=broken)
    told = plan(observed(running, pod(0), pod(1)))
    assert told.status.phase == Phase.RUNNING
    assert told.delete == ()

    assert told.status.message.startswith("not accepted: ")
    assert [event.reason for event in told.events] == ["InvalidSpec"]


def test_how_a_job_ends_whose_spec_nobody_can_read_any_more_is_told():
    running = replace(running_job(ttlSecondsAfterFinished=100), spec=BROKEN)
    over = plan(observed(running, SUCCEEDED, pod(1)))
    assert (over.status.phase, over.status.reason, over.status.progress.step) == (Phase.SUCCEEDED, "Succeeded", 100)
    assert truth(over.status, ConditionType.COMPLETE) == "True"
    assert truth(over.status, ConditionType.ACCEPTED) == "False"
    assert {event.reason for event in over.events} == {"Succeeded", "InvalidSpec"}
    finished = replace(running, status=over.status)
    assert plan(observed(finished, SUCCEEDED, now=NOW + timedelta(seconds=100))).delete_job


def test_a_failure_of_a_job_whose_spec_nobody_can_read_waits_for_one():
    before = running_job()
    running = replace(before, spec=BROKEN)
    stands = plan(observed(running, failed(0), pod(1)))
    assert stands.status.phase == Phase.PENDING
    assert "worker 0 on node node-0: ended with 69; nothing is started again, since" in stands.status.message
    assert (stands.create, stands.delete, stands.status.restarts) == ((), (), 0)
    assert plan(observed(replace(running, status=stands.status), failed(0), pod(1))) == Plan()
    mended = plan(observed(replace(before, status=stands.status), failed(0), pod(1)))
    assert (mended.status.phase, mended.status.restarts) == (Phase.RESTARTING, 1)
    assert truth(mended.status, ConditionType.ACCEPTED) == "True"


def test_service_accounts_need_an_allowlist():
    stranger = replace(job(), spec=spec(workers=ADMIN))
    refused = plan(observed(stranger))
    assert truth(refused.status, ConditionType.ACCEPTED) == "False"
    assert "serviceAccountName" in refused.status.message
    assert (refused.status.attempt, refused.status.phase) == (0, Phase.PENDING)  # it can still be corrected


def test_more_processes_than_gpus_are_accepted_with_a_warning():
    def accepted(gpus, processes):
        limits = {"nvidia.com/gpu": gpus} if gpus else {"cpu": 8}
        asked = spec(workers={"processesPerWorker": processes, "resources": {"limits": limits}})
        status = plan(observed(replace(job(), spec=asked))).status
        assert truth(status, ConditionType.ACCEPTED) == "True"
        return status.condition(ConditionType.ACCEPTED).message

    assert accepted(2, 4) == (
        "spec.workers.processesPerWorker: 4, but each worker asks for only 2 GPU(s), and each process needs its own: set it to "
        "2, or ask for 4 in spec.workers.resources.limits"
    )
    assert accepted(4, 4) == accepted(0, 4) == ""


def test_a_service_account_that_is_no_longer_allowed_stops_only_what_would_be_created():
    running = replace(running_job(), spec=spec(workers=ADMIN))
    on = plan(observed(running, pod(0), pod(1), report=report(20)))
    assert (on.status.phase, on.status.reason, on.status.progress.step) == (Phase.RUNNING, "Training", 20)
    assert on.status.condition(ConditionType.ACCEPTED).reason == "NotAllowed"
    assert [event.reason for event in on.events] == ["NotAllowed"]
    running = replace(running, status=on.status)
    assert plan(observed(running, SUCCEEDED, pod(1))).status.phase == Phase.SUCCEEDED
    restarting = replace(running, status=plan(observed(running, failed(0), pod(1))).status)
    assert restarting.status.restarts == 1
    stuck = plan(observed(restarting, failed(0)))
    assert stuck.create == ()
    assert restarting.status.reason == "NotAllowed"
    assert "ended with 69" in restarting.status.message
    assert "admin is not one that the platform allows (default)" in restarting.status.message
    allowed = replace(SETTINGS, service_accounts=frozenset({"admin"}))
    assert names(plan(observed(restarting, failed(0), settings=allowed))) == ["digits-0-2", "digits-1-2"]


@pytest.mark.parametrize("refused", [BROKEN, spec(workers=ADMIN)])
def test_a_job_that_ended_is_kept_house_for_whatever_its_spec(refused):
    before = running_job(ttlSecondsAfterFinished=100)
    over = replace(before, status=plan(observed(before, SUCCEEDED, pod(1))).status, spec=refused)
    kept = plan(observed(over, SUCCEEDED, pod(1)))
    assert (kept.status, kept.requeue_after) == (None, pytest.approx(30))
    assert [d.name for d in plan(observed(over, SUCCEEDED, pod(1), now=NOW + timedelta(seconds=31))).delete] == [
        "digits-1-1"
    ]
    assert plan(observed(over, now=NOW + timedelta(seconds=100))).delete_job
