"""Another number of workers in a job that has begun: all save and go, then as many as are asked for start again."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, failed, job, observed, pod, report, running_job

from trainwright.api.names import ENV_MIN_WORKERS, ENV_WORKERS
from trainwright.api.status import Phase
from trainwright.plan import plan


def decide(before, *pods, **fields):
    decision = plan(observed(before, *pods, **fields))
    return replace(before, status=decision.status or before.status), decision


def saving_job(**fields):
    """Return a job that runs and whose checkpoints do not go with its pods: without, its size is kept."""
    return running_job(checkpoint={"uri": "s3://bucket/x"}, **fields)


def sized(before, count, least=None):
    """Return the job with its spec edited."""
    workers = before.spec.workers.model_copy(update={"count": count, "min_count": least})
    return replace(before, generation=before.generation + 1, spec=before.spec.model_copy(update={"workers": workers}))


def leaving(*pods):
    return tuple(replace(known, deletes_at=NOW + timedelta(seconds=60)) for known in pods)


def made(decision):
    return [manifest["metadata"]["name"] for manifest in decision.create if manifest["kind"] == "Pod"]


def environment(manifest):
    return {entry["name"]: entry.get("value") for entry in manifest["spec"]["containers"][0]["env"]}


@pytest.mark.parametrize(("count", "pods"), [(4, 4), (1, 1)])
def test_all_save_and_go_before_any_starts_again(count, pods):
    running = saving_job()
    scaled, decision = decide(sized(running, count), pod(0), pod(1), report=report(20))
    status = scaled.status
    assert (status.phase, status.reason) == (Phase.RESTARTING, "Scaling")
    assert (status.attempt, status.oldest_attempt, status.restarts, status.failure) == (2, 2, 0, None)
    assert (status.workers.desired, status.workers.formerly) == (count, 2)
    assert (decision.create, decision.delete, decision.requeue_after) == ((), (), 0)
    assert [(event.reason, event.warning) for event in decision.events] == [("Scaled", False)]
    _, going = decide(scaled, pod(0), pod(1), report=report(20))
    assert {deletion.name for deletion in going.delete} == {"digits-0-1", "digits-1-1"}
    saving, still = decide(scaled, *leaving(pod(0), pod(1)), report=report(21))
    assert still.create == ()
    assert saving.status.message.startswith(f"scaling from 2 to {count} workers; 2 still saving and stopping; ")
    _, coming = decide(saving)
    assert made(coming) == [f"digits-{index}-2" for index in range(pods)]
    assert ("Service" in [manifest["kind"] for manifest in coming.create]) == (count > 1)


def test_the_new_workers_know_how_many_they_are():
    scaled, _ = decide(sized(saving_job(), 4, least=3), pod(0), pod(1), report=report(20))
    _, decision = decide(scaled, pod(0, attempt=2, phase="Pending"))
    assert made(decision) == ["digits-1-2", "digits-2-2", "digits-3-2"]
    for manifest in decision.create[-3:]:
        told = environment(manifest)
        assert (told[ENV_WORKERS], told[ENV_MIN_WORKERS]) == ("4", "3")
    alone, _ = decide(sized(saving_job(), 1), pod(0), pod(1), report=report(20))
    told = environment(decide(alone)[1].create[-1])
    assert told[ENV_WORKERS] == "1"
    assert ENV_MIN_WORKERS not in told


def test_a_job_that_trains_again_has_forgotten_how_many_there_were():
    scaled, _ = decide(sized(saving_job(), 3), pod(0), pod(1), report=report(20))
    pods = [pod(index, attempt=2) for index in range(3)]
    again, decision = decide(scaled, *pods, report=report(21, attempt=2, launch="b", resumed_from_step=20))
    status = again.status
    assert (status.phase, status.workers.desired, status.workers.formerly) == (Phase.RUNNING, 3, None)
    assert (status.restarts, status.progress.replayed_steps) == (0, 0)
    assert decision.events == ()
    assert plan(observed(again, *pods)).status is None


def test_a_change_back_before_it_was_carried_out_is_one_more_start():
    scaled, _ = decide(sized(saving_job(), 3), pod(0), pod(1))
    back, decision = decide(sized(scaled, 2), pod(0), pod(1))
    assert (back.status.attempt, back.status.workers.desired, back.status.workers.formerly) == (3, 2, 3)
    assert [event.reason for event in decision.events] == ["Scaled"]


def test_a_failure_on_the_way_out_is_none():
    scaled, _ = decide(sized(saving_job(), 3), pod(0), pod(1))
    later, _ = decide(scaled, failed(0), failed(1))
    assert (later.status.attempt, later.status.restarts) == (2, 0)


def test_what_never_started_waits_on_with_another_number():
    started, _ = decide(job())
    scaled, _ = decide(sized(started, 3), pod(0, phase="Pending"), pod(1, phase="Pending"))
    assert (scaled.status.phase, scaled.status.attempt, scaled.status.workers.desired) == (Phase.PENDING, 2, 3)


def test_a_suspended_job_takes_note_and_starts_with_the_new_number():
    running = saving_job()
    idle = replace(running, spec=running.spec.model_copy(update={"suspend": True}))
    suspended, _ = decide(idle)
    scaled, decision = decide(sized(suspended, 5))
    assert (scaled.status.phase, scaled.status.attempt, decision.events) == (Phase.SUSPENDED, 1, ())
    resumed, decision = decide(replace(scaled, spec=scaled.spec.model_copy(update={"suspend": False})))
    assert (resumed.status.attempt, resumed.status.workers.desired, resumed.status.workers.formerly) == (2, 5, None)
    assert decision.events == ()


def test_a_wait_that_was_on_goes_on():
    restarting, _ = decide(saving_job(restart={"limit": 9, "backoffSeconds": 10}), pod(0), failed(1))
    until = NOW + timedelta(seconds=30)
    waiting = replace(restarting, status=restarting.status.model_copy(update={"next_start": until}))
    scaled, _ = decide(sized(waiting, 3), pod(0))
    assert (scaled.status.next_start, scaled.status.waiting_since) == (until, until)
    assert scaled.status.restarts == 1


def test_what_has_ended_stays_as_it_is():
    ended, _ = decide(saving_job(), pod(0, phase="Succeeded"), pod(1, phase="Succeeded"), report=report(100))
    assert ended.status.phase == Phase.SUCCEEDED
    edited = sized(ended, 3)
    seen = plan(observed(edited, pod(0, phase="Succeeded"))).status
    assert seen == ended.status.model_copy(update={"observed_generation": edited.generation})
    assert plan(observed(replace(edited, status=seen), pod(0, phase="Succeeded"))).status is None


def test_another_minimum_disturbs_nobody_who_trains_but_those_who_wait():
    running = saving_job(workers=3, least=3)
    edited = sized(running, 3, least=2)
    pods = [pod(index) for index in range(3)]
    going_on, _ = decide(edited, *pods, report=report(20))
    assert (going_on.status.phase, going_on.status.attempt) == (Phase.RUNNING, 1)
    lost, _ = decide(going_on, pod(0), pod(1), failed(2), report=report(21))
    assert (lost.status.attempt, lost.status.oldest_attempt) == (2, 1)
    waiting, decision = decide(lost, pod(0), pod(1), failed(2))
    status = waiting.status
    assert (status.attempt, status.oldest_attempt, status.workers.minimum) == (3, 3, 2)
    assert (status.phase, status.workers.formerly, status.restarts) == (Phase.RESTARTING, None, 1)
    assert decision.events == ()


def test_another_minimum_is_not_worth_the_training_that_goes_with_worker_0():
    running = running_job(workers=3, least=3)
    pods = [pod(0), pod(1)]
    lost, _ = decide(sized(running, 3, least=2), *pods, failed(2), report=report(21))
    waiting, decision = decide(lost, *pods, failed(2))
    assert (waiting.status.attempt, waiting.status.oldest_attempt) == (2, 1)
    assert decision.delete == ()
    assert made(decision) == ["digits-2-2"]
    started, _ = decide(job(workers=3, least=3))
    untrained, _ = decide(sized(started, 3, least=2), *pods)
    assert untrained.status.oldest_attempt == 2, "nothing is lost before the first step"


def test_a_change_waits_for_no_worker_that_the_others_go_on_without():
    running, _ = decide(saving_job(workers=3, least=2), pod(0), pod(1), report=report(20, launch="b", absent=[2]))
    for attempt in (1, 2):
        running, _ = decide(running, pod(0), pod(1), failed(2, attempt=attempt))
    assert running.status.phase == Phase.RUNNING
    assert running.status.next_start > NOW
    scaled, _ = decide(sized(running, 2), pod(0), pod(1))
    assert (scaled.status.reason, scaled.status.next_start, scaled.status.waiting_since) == ("Scaling", None, NOW)
    _, decision = decide(scaled)
    assert made(decision) == ["digits-0-4", "digits-1-4"]
