"""What becomes of a job whose worker fails, vanishes or is lost."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, failed, kinds, names, observed, pod, report, running_job, status_after, truth

from trainwright.api.exit_codes import ExitCode, FailureClass, classify
from trainwright.api.names import ANNOTATION_LIMIT_RANGER
from trainwright.api.status import ConditionType, Phase
from trainwright.api.worker import Termination, WorkerPhase
from trainwright.cluster.compact import compact_pod
from trainwright.plan import Plan, plan
from trainwright.plan.observe import read_pod
from trainwright.plan.postmortem import describe


@pytest.mark.parametrize(
    ("casualty", "category"),
    [
        (failed(1, code=ExitCode.USER_ERROR), FailureClass.USER_ERROR),
        (failed(1, code=ExitCode.DATA), FailureClass.DATA),
        (failed(1, code=ExitCode.NON_FINITE), FailureClass.NON_FINITE),
        (failed(1, code=137, reason="OOMKilled", termination=None), FailureClass.OUT_OF_MEMORY),
    ],
)
def test_failures_that_would_repeat_end_the_job_at_once(casualty, category):
    decision = plan(observed(running_job(), pod(0), casualty))
    status = decision.status
    assert status.phase == Phase.FAILED
    assert status.failure.category == category
    assert (status.failure.worker, status.failure.node) == (1, "node-1")
    assert [deletion.name for deletion in decision.delete] == ["digits-0-1"]
    assert decision.create == ()
    assert [event.reason for event in decision.events] == ["Failed"]
    assert truth(status, ConditionType.FAILED) == "True"


SAYS = [None, *FailureClass]
MEMORY = (FailureClass.OUT_OF_MEMORY, FailureClass.INFRASTRUCTURE, FailureClass.INTERNAL)


@pytest.mark.parametrize("said", SAYS)
@pytest.mark.parametrize("code", [1, 137, 143, *(code for code in ExitCode if code != ExitCode.SUCCESS)])
@pytest.mark.parametrize("reason", ["Error", "OOMKilled"])
def test_the_worker_knows_why_it_ended_unless_the_kernel_took_its_memory(said, code, reason):
    own = said or classify(code)
    last_word = None if said is None else Termination(exit_code=code, category=said, message="its own words")
    limited = failed(1, code=code, reason=reason, termination=last_word, limits={"memory": "1Gi"})
    failure = describe(limited, 1, NOW)
    if reason == "OOMKilled" and own in MEMORY:
        assert (failure.category, failure.reason) == (FailureClass.OUT_OF_MEMORY, "OOMKilled")
        assert failure.message.endswith("was killed by the kernel: it used more memory than its limit of 1Gi")
    else:
        assert failure.category == own
        assert failure.reason != "OOMKilled"
        assert "its own words" in failure.message or said is None


def killed_for_memory(limits, defaults):
    containers = [{"name": "worker", "resources": {"limits": limits}}]
    ended = {"exitCode": 137, "reason": "OOMKilled"}
    manifest = {
        "metadata": {"name": "digits-1-1", "uid": "u", "annotations": {ANNOTATION_LIMIT_RANGER: defaults}},
        "spec": {"nodeName": "node-1", "containers": containers},
        "status": {"phase": "Failed", "containerStatuses": [{"name": "worker", "state": {"terminated": ended}}]},
    }
    return read_pod(compact_pod(manifest), "digits")


@pytest.mark.parametrize(
    ("limits", "defaults", "words"),
    [
        ({"memory": "1Gi"}, "", "it used more memory than its limit of 1Gi"),
        (
            {"memory": "64Mi", "cpu": "1"},
            "LimitRanger plugin set: cpu request for container worker; cpu, memory limit for container worker",
            (
                "it used more memory than its limit of 64Mi, which comes from the namespace's LimitRange, because "
                "spec.workers.resources.limits.memory is not set"
            ),
        ),
        (
            {"memory": "1Gi", "cpu": "1"},
            "LimitRanger plugin set: memory limit for container istio-proxy; cpu limit for container worker",
            "it used more memory than its limit of 1Gi",
        ),
        ({"cpu": "1"}, "", "its node had no memory left; the worker has no limit of its own"),
    ],
)
def test_whose_limit_it_was_that_a_worker_exceeded(limits, defaults, words):
    status = plan(observed(running_job(), pod(0), killed_for_memory(limits, defaults))).status
    assert (status.phase, status.failure.category) == (Phase.FAILED, FailureClass.OUT_OF_MEMORY)
    assert status.message == f"worker 1 on node node-1 was killed by the kernel: {words}"


def test_the_hint_of_a_worker_that_finds_itself_out_of_memory_names_a_default_limit():
    said = Termination(
        exit_code=ExitCode.OUT_OF_MEMORY, category=FailureClass.OUT_OF_MEMORY, message="m", hint="use less"
    )
    held = failed(1, termination=said, limits={"memory": "64Mi"}, defaults=frozenset({"memory limit"}))
    assert plan(observed(running_job(), pod(0), held)).status.failure.hint == (
        "use less. The worker's limit of 64Mi comes from the namespace's LimitRange, because "
        "spec.workers.resources.limits.memory is not set."
    )


def test_a_default_cpu_limit_below_a_core_is_mentioned_while_training():
    def message(limit, defaults):
        leader = pod(0, limits={"cpu": limit}, defaults=frozenset(defaults))
        return plan(observed(running_job(), leader, pod(1), report=report(11))).status.message

    assert message("500m", {"cpu limit"}).endswith(
        "; each worker is held to 500m CPU by the namespace's LimitRange, since spec.workers.resources.limits.cpu is not set"
    )
    assert "LimitRange" not in message("2", {"cpu limit"}) + message("500m", {"cpu request"})


def test_the_workers_say_whose_failure_came_first():
    def ended(index, first, seconds=0):
        said = Termination(exit_code=ExitCode.DATA, category=FailureClass.DATA, message="m", worker=first)
        return failed(index, termination=said, finished_at=NOW + timedelta(seconds=seconds))

    def culprit(*pods):
        return plan(observed(running_job(), *pods)).status.failure.worker

    assert culprit(ended(0, 1), ended(1, 1)) == 1
    assert culprit(ended(0, 1), ended(1, 1, seconds=3)) == 1, "the clock of its node is ahead"
    assert culprit(ended(0, None), ended(1, None)) == 0


@pytest.mark.parametrize("code", [137, ExitCode.PREEMPTED])
def test_who_uses_more_disk_than_its_own_limit_fails_the_job_and_the_limit_is_named(code):
    words = "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi. "
    evicted = failed(1, code=code, reason="Evicted", message=words)
    status = plan(observed(running_job(), pod(0), evicted)).status
    assert (status.phase, status.failure.category) == (Phase.FAILED, FailureClass.USER_ERROR)
    assert status.failure.message == f"worker 1 on node node-1 was evicted: {words.strip()}"
    assert "ephemeral-storage in spec.workers.resources.limits" in status.failure.hint


@pytest.mark.parametrize(
    "fields",
    [
        {"exit_code": 137, "disrupted": "The node was low on resource: ephemeral-storage."},
        {"exit_code": 137, "disrupted": "The node was low on resource: memory."},
        {"message": "Pod was rejected: The node had condition: [DiskPressure]. "},  # it never ran there
    ],
)
def test_who_is_evicted_for_the_sake_of_its_node_is_preempted(fields):
    evicted = pod(1, phase="Failed", reason="Evicted", **fields)
    status = plan(observed(running_job(), pod(0), evicted)).status
    assert (status.phase, status.failure.category) == (Phase.RESTARTING, FailureClass.PREEMPTED)
    hinted = "requests.memory" in (status.failure.hint or "")
    assert hinted == ("memory" in (evicted.disrupted or ""))


@pytest.mark.parametrize(
    ("casualty", "whole"),
    [
        (failed(1), False),
        (failed(1, code=137, termination=None), False),
        (failed(1, code=1, termination=None), False),
        (pod(1, deletes_at=NOW + timedelta(seconds=60)), False),
        (pod(1, phase="Failed", disrupted="Preempted by a pod of higher priority"), False),
        (failed(0), True),
        (pod(0, deletes_at=NOW + timedelta(seconds=60)), True),
    ],
)
def test_failures_that_may_pass_restart(casualty, whole):
    running = running_job()
    survivor = pod(1 - casualty.index)
    decided = plan(observed(running, survivor, casualty))
    status = decided.status
    assert status.phase == Phase.RESTARTING
    assert (status.attempt, status.restarts) == (2, 1)
    assert status.oldest_attempt == (2 if whole else 1)
    assert decided.create == ()
    assert decided.delete == ()
    carried_out = plan(observed(replace(running, status=status), survivor, casualty))
    if whole:
        assert [deletion.name for deletion in carried_out.delete] == [survivor.name]
    else:
        assert carried_out.delete == ()
        assert names(carried_out) == ["digits-1-2"]


def test_lost_worker_is_replaced_and_the_loss_told():
    running = running_job()
    decided = plan(observed(running, pod(0)))
    assert decided.status.restarts == 1
    assert "worker 1 is gone" in decided.status.failure.message
    assert names(plan(observed(replace(running, status=decided.status), pod(0)))) == ["digits-1-2"]


def test_new_worker_0_waits_for_the_old_one_to_save():
    leaving = pod(0, deletes_at=NOW + timedelta(seconds=60))
    restarting = replace(running_job(), status=plan(observed(running_job(), leaving, pod(1))).status)
    waiting = plan(observed(restarting, leaving))
    assert waiting.create == ()
    assert waiting.requeue_after == pytest.approx(65)
    late = NOW + timedelta(seconds=66)
    assert names(plan(observed(restarting, leaving, now=late))) == ["digits-0-2", "digits-1-2"]
    assert names(plan(observed(restarting, replace(leaving, phase="Failed")))) == ["digits-0-2", "digits-1-2"]


def test_restarts_end_at_the_limit():
    running = running_job(restart={"limit": 0})
    status = plan(observed(running, pod(0), failed(1))).status
    assert status.phase == Phase.FAILED
    assert "gave up after 0 restarts" in status.message


def test_second_restart_waits_and_says_until_when():
    running = running_job(restart={"backoffSeconds": 8})
    once = replace(running, status=running.status.model_copy(update={"restarts": 2, "restarts_without_progress": 2}))
    decided = plan(observed(once, pod(0), failed(1))).status
    assert decided.next_start == NOW + timedelta(seconds=16)
    held = plan(observed(replace(once, status=decided), pod(0), failed(1)))
    assert held.create == ()
    assert held.requeue_after == pytest.approx(16)


def test_progress_falls_back_only_with_a_word_about_it():
    running = running_job(step=60)
    restarting = replace(running, status=plan(observed(running, pod(0), failed(1))).status)
    pods = (pod(0), pod(1, attempt=2))
    old = plan(observed(restarting, *pods, report=report(61)))
    assert status_after(Plan(status=restarting.status), old).progress.step == 60
    new = report(41, launch="b", resumed_from_step=40)
    status = plan(observed(restarting, *pods, report=new)).status
    assert status.phase == Phase.RUNNING
    assert (status.progress.step, status.progress.replayed_steps) == (41, 20)
    assert status.restarts == 1
    assert "resumed from step 40" in status.message


@pytest.mark.parametrize(
    ("known", "resumed", "loss"),
    [
        (100, 100, 1.5),  # the loss is that of the last step
        (60, 100, None),  # the operator was away: nobody knows the loss of the last step
        (60, 40, 1.5),  # the steps since are repeated, and their losses replace this one
    ],
)
def test_a_launch_that_resumes_shows_no_loss_of_an_earlier_step_as_its_own(known, resumed, loss):
    running = running_job(step=known)
    restarting = replace(running, status=plan(observed(running, pod(0), failed(1))).status)
    first = report(resumed, launch="b", resumed_from_step=resumed).changed(loss=None)
    status = plan(observed(restarting, pod(0), pod(1, attempt=2), report=first)).status
    assert (status.progress.step, status.metrics.loss) == (resumed, loss)
    assert status.summary.loss == ("" if loss is None else "1.5")


def test_restart_inside_the_pods_is_counted_too():
    running = running_job(step=60)
    pods = (pod(0), pod(1))
    preparing = plan(observed(running, *pods, report=report(0, launch="b", phase=WorkerPhase.PREPARING)))
    assert preparing.status.phase == Phase.STARTING
    assert preparing.status.restarts == 0
    resumed = report(51, launch="b", resumed_from_step=50)
    status = plan(observed(replace(running, status=preparing.status), *pods, report=resumed)).status
    assert (status.restarts, status.attempt, status.progress.replayed_steps) == (1, 1, 10)


def test_a_single_replacement_finds_what_it_needs_even_if_somebody_deleted_it():
    before = running_job()
    restarting = plan(observed(before, pod(0), failed(1))).status
    second = plan(observed(replace(before, status=restarting), pod(0), failed(1)))
    assert kinds(second)[-1] == "Pod"
    assert {"ConfigMap", "Service"} <= set(kinds(second))
    assert names(second) == ["digits-1-2"]


@pytest.mark.parametrize(
    "pods",
    [(pod(0), failed(1, code=ExitCode.USER_ERROR)), (pod(0), failed(1)), (failed(0), pod(1)), (pod(0),)],
)
def test_no_end_is_in_sight_and_no_report_overdue_where_training_does_not_run(pods):
    running = running_job()
    stale = replace(running, status=plan(observed(running, pod(0), pod(1), now=NOW + timedelta(seconds=61))).status)
    assert stale.status.progress.eta is not None
    said = plan(observed(stale, *pods, now=NOW + timedelta(seconds=62))).status.progress
    assert (said.eta, said.remaining_seconds, said.stale) == (None, None, False)
