"""A started job whose spec was changed although it may not be: the operator refuses what no policy refused."""

from dataclasses import replace

import pytest
from situations import job, names, observed, pod, running_job, spec, truth

import parity
from trainwright.api.immutable import changes, digests
from trainwright.api.job import read_spec
from trainwright.api.status import ConditionType, Phase
from trainwright.plan import Plan, plan

LOST = pod(1, phase="Failed", exit_code=137)


def edited(running, **fields):
    """Return the job with another spec, as the API server stores it."""
    return replace(running, spec=spec(**{"workers": {"count": 2}, **fields}), generation=running.generation + 1)


def carried_on(job, told):
    return replace(job, status=told.status)


@pytest.mark.parametrize("update", parity.updates(), ids=lambda update: update.name)
def test_the_operator_refuses_what_the_policy_refuses(update):
    before = parity.job()["spec"] | update.was
    after = merged(before, update.change)
    changed = changes(digests(read_spec(before)), digests(read_spec(after)))
    assert [f"spec.{path}" for path in changed if path != "workers.count"] == ([update.wrong] if update.wrong else [])


def merged(value, patch):
    """Return the value with a JSON merge patch applied."""
    if not isinstance(patch, dict) or not isinstance(value, dict):
        return patch
    known = {key: merged(value.get(key), item) for key, item in patch.items() if item is not None}
    return {key: item for key, item in value.items() if key not in patch} | known


def test_named_lists_may_be_written_in_another_order():
    variables = [{"name": "A"}, {"name": "B"}]
    first, second = (
        digests(spec(workers={"env": listed, "volumes": []})) for listed in (variables, list(reversed(variables)))
    )
    assert first == second


def test_a_changed_job_is_refused_and_what_runs_is_left_alone():
    running = running_job()
    changed = edited(running, training={"epochs": 4, "globalBatchSize": 60})
    told = plan(observed(changed, pod(0), LOST))
    assert truth(told.status, ConditionType.ACCEPTED) == "False"
    assert told.status.condition(ConditionType.ACCEPTED).reason == "SpecChanged"
    assert "spec.training cannot change after the first start" in told.status.message
    assert told.status.phase == Phase.RUNNING
    assert (told.delete, told.create) == ((), ())
    assert plan(observed(carried_on(changed, told), pod(0), LOST)) == Plan()


def test_a_job_whose_spec_is_put_back_is_looked_after_again():
    running = running_job()
    changed = edited(running, model={"name": "linear"})
    refused = carried_on(changed, plan(observed(changed, pod(0), LOST)))
    restored = replace(refused, spec=running.spec, generation=3)
    told = plan(observed(restored, pod(0), LOST))
    assert truth(told.status, ConditionType.ACCEPTED) == "True"
    assert told.status.restarts == 1


def test_what_may_change_is_carried_out():
    running = running_job()
    suspended = edited(running, suspend=True)
    assert plan(observed(suspended, pod(0), pod(1))).status.phase == Phase.SUSPENDED


def test_before_the_first_start_everything_may_change():
    waiting = edited(job(), model={"name": "linear"})
    assert waiting.status.spec_digests == {}
    begun = plan(observed(waiting)).status
    assert begun.attempt == 1
    assert begun.spec_digests == digests(waiting.spec)


def test_the_number_of_workers_is_kept_once_it_would_cost_what_was_learnt():
    trained = running_job(step=10)
    told = plan(observed(edited(trained, workers={"count": 3}), pod(0), pod(1)))
    assert "spec.workers.count cannot change after the first training step" in told.status.message
    untrained = running_job(step=0)
    told = plan(observed(edited(untrained, workers={"count": 3}), pod(0), pod(1)))
    assert told.status.workers.desired == 3


def test_another_version_that_makes_other_digests_goes_on_with_a_job_that_it_finds():
    running = running_job()
    former = running.status.model_copy(update={"spec_digests": {"model": "of-another-version"}})
    found = plan(observed(replace(running, status=former), pod(0), pod(1)))
    assert found.status.spec_digests == running.status.spec_digests
    assert truth(found.status, ConditionType.ACCEPTED) == "True"


def test_a_job_that_was_started_by_a_version_without_digests_has_them_recorded():
    running = running_job()
    former = replace(running, status=running.status.model_copy(update={"spec_digests": {}}))
    assert plan(observed(former, pod(0), pod(1))).status.spec_digests == running.status.spec_digests


def test_no_pod_is_made_of_a_changed_spec():
    running = running_job()
    changed = edited(running, workers={"count": 2, "image": "another"})
    assert names(plan(observed(changed, pod(0)))) == []


def test_the_placement_of_running_workers_is_kept_and_the_remedy_said():
    changed = edited(running_job(), workers={"count": 2, "image": "another"})
    told = plan(observed(changed, pod(0), pod(1)))
    assert (
        "spec.workers.image can change only while the job is suspended: set spec.suspend: true" in told.status.message
    )
    assert (told.delete, told.create) == ((), ())


def test_the_placement_may_change_in_the_edit_that_suspends():
    running = running_job()
    changed = edited(running, workers={"count": 2, "image": "another"}, suspend=True)
    told = plan(observed(changed, pod(0), pod(1))).status
    assert told.phase == Phase.SUSPENDED
    resumed = replace(edited(running, workers={"count": 2, "image": "another"}), status=told, generation=3)
    begun = plan(observed(resumed)).status
    assert (begun.attempt, begun.restarts) == (2, 0)
    created = plan(observed(replace(resumed, status=begun))).create
    images = {each["spec"]["containers"][0]["image"] for each in created if each["kind"] == "Pod"}
    assert images == {"another"}


def test_pods_that_wait_are_made_again_for_a_corrected_placement():
    begun = plan(observed(job())).status
    waiting = replace(job(begun))
    pods = [pod(index, phase="Pending", waiting=("ImagePullBackOff", "no such image")) for index in range(2)]
    corrected = edited(waiting, workers={"count": 2, "image": "right"})
    told = plan(observed(corrected, *pods))
    assert truth(told.status, ConditionType.ACCEPTED) == "True"
    assert (told.status.attempt, told.status.oldest_attempt, told.status.restarts) == (2, 2, 0)
    after = plan(observed(replace(corrected, status=told.status), *pods))
    assert sorted(deletion.name for deletion in after.delete) == ["digits-0-1", "digits-1-1"]
    images = {each["spec"]["containers"][0]["image"] for each in after.create if each["kind"] == "Pod"}
    assert images == {"right"}
    # The same spec is no change.
    settled = plan(observed(replace(corrected, status=told.status), *after_pods()))
    assert settled.status is None or settled.status.attempt == 2


def after_pods():
    return [pod(index, attempt=2, phase="Pending") for index in range(2)]
