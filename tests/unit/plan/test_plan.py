"""The decisions, as tables: what is seen, what is to be done, what is said."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, SETTINGS, failed, job, observed, pod, report, running_job, spec, status_after

from trainwright.api.exit_codes import ExitCode, FailureClass
from trainwright.api.job import FieldError, InvalidJobError
from trainwright.api.status import ConditionType, Phase, Results
from trainwright.api.worker import Termination, WorkerPhase
from trainwright.plan import Plan, limits, plan
from trainwright.plan.weight import Weight

HOUR = timedelta(hours=1)


def kinds(plan: Plan) -> list[str]:
    return [manifest["kind"] for manifest in plan.create]


def names(plan: Plan) -> list[str]:
    return [manifest["metadata"]["name"] for manifest in plan.create if manifest["kind"] == "Pod"]


def truth(status, kind: ConditionType) -> str | None:
    condition = status.condition(kind)
    return condition.status if condition else None


def test_new_job_writes_its_first_attempt_before_it_creates_anything():
    first = plan(observed(job()))
    assert first.status.phase == Phase.PENDING
    assert (first.status.attempt, first.status.oldest_attempt) == (1, 1)
    assert truth(first.status, ConditionType.ACCEPTED) == "True"
    assert first.create == ()
    assert first.requeue_after == 0


def test_second_pass_creates_companions_then_pods():
    started = replace(job(), status=status_after(plan(observed(job()))))
    second = plan(observed(started))
    assert kinds(second) == ["ConfigMap", "Service", "NetworkPolicy", "Pod", "Pod"]
    assert names(second) == ["digits-0-1", "digits-1-1"]
    assert second.status is None


def test_pods_mount_what_is_told_when_they_are_created():
    started = replace(job(), status=status_after(plan(observed(job()))))

    def told(**settings):
        config, *_, last = plan(observed(started, settings=replace(SETTINGS, **settings))).create
        mounted = [volume["configMap"] for volume in last["spec"]["volumes"] if "configMap" in volume]
        assert mounted == [{"name": config["metadata"]["name"]}]
        return config["metadata"]["name"]

    assert told() == told()
    assert told(reports_ca="the CA after a new installation") != told()


@pytest.mark.parametrize(
    ("lost", "own", "images"),
    [(1, None, ["worker:1"]), (0, None, ["worker:2"] * 2), (1, "mine:7", ["mine:7"])],
    ids=["one is replaced", "all start again", "an image of the job's own"],
)
def test_workers_that_train_together_have_one_image(lost, own, images):
    before = running_job()
    workers = {"count": 2} | ({"image": own} if own else {})
    before = replace(before, spec=spec(workers=workers))
    pods = [replace(pod(index), image=own or "worker:1") for index in range(2)]
    pods[lost] = replace(failed(lost), image=pods[lost].image)
    upgraded = replace(SETTINGS, worker_image="worker:2")
    later = NOW + timedelta(seconds=60)
    restarted = replace(before, status=status_after(plan(observed(before, *pods, settings=upgraded))))
    if lost == 0:
        pods = []
    made = plan(observed(restarted, *pods, settings=upgraded, now=later)).create
    assert [child["spec"]["containers"][0]["image"] for child in made if child["kind"] == "Pod"] == images


def test_single_worker_needs_no_service():
    started = replace(job(workers=1), status=status_after(plan(observed(job(workers=1)))))
    assert kinds(plan(observed(started))) == ["ConfigMap", "NetworkPolicy", "Pod"]


@pytest.mark.parametrize(
    ("pods", "heard", "phase", "reason"),
    [
        ([pod(0, phase="Pending"), pod(1)], None, Phase.PENDING, "WorkersPending"),
        ([pod(0), pod(1)], None, Phase.STARTING, "Rendezvous"),
        ([pod(0), pod(1)], report(0, phase=WorkerPhase.PREPARING), Phase.STARTING, "Preparing"),
        ([pod(0), pod(1)], report(0), Phase.STARTING, "Preparing"),
        ([pod(0), pod(1)], report(50, resumed_from_step=50), Phase.STARTING, "Preparing"),
        ([pod(0), pod(1)], report(1), Phase.RUNNING, "Training"),
        ([pod(0), pod(1)], report(100, phase=WorkerPhase.PREDICTING), Phase.RUNNING, "Training"),
        ([pod(0), pod(1, phase="Succeeded")], report(100), Phase.RUNNING, "Training"),
    ],
)
def test_phase_follows_pods_and_reports(pods, heard, phase, reason):
    started = replace(job(), status=status_after(plan(observed(job()))))
    said = status_after(Plan(status=started.status), plan(observed(started, *pods, report=heard)))
    assert (said.phase, said.reason) == (phase, reason)
    assert truth(said, ConditionType.RUNNING) == str(phase == Phase.RUNNING)


def test_running_survives_an_operator_that_has_heard_nothing_yet():
    running = running_job()
    assert plan(observed(running, pod(0), pod(1))).status is None


def test_unschedulable_is_said_with_the_schedulers_words():
    started = replace(job(), status=status_after(plan(observed(job()))))
    stuck = pod(
        1, phase="Pending", waiting=("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    )
    decision = plan(observed(started, pod(0), stuck))
    assert decision.status.reason == "Unschedulable"
    assert decision.status.message == (
        "1 of 2 workers unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    )
    assert decision.weight >= Weight.NEWS


def test_creation_that_the_cluster_refuses_is_said():
    started = replace(job(), status=status_after(plan(observed(job()))))
    decision = plan(observed(started, rejection="exceeded quota: pods=10"))
    assert decision.status.reason == "CreationRefused"
    assert "exceeded quota" in decision.status.message
    assert names(decision) == ["digits-0-1", "digits-1-1"]


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
        {"message": "Pod was rejected: The node had condition: [DiskPressure]. "},  # it never ran there
    ],
)
def test_who_is_evicted_for_the_sake_of_its_node_is_preempted(fields):
    evicted = pod(1, phase="Failed", reason="Evicted", **fields)
    status = plan(observed(running_job(), pod(0), evicted)).status
    assert (status.phase, status.failure.category) == (Phase.RESTARTING, FailureClass.PREEMPTED)


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


def test_restart_inside_the_pods_is_counted_too():
    running = running_job(step=60)
    pods = (pod(0), pod(1))
    preparing = plan(observed(running, *pods, report=report(0, launch="b", phase=WorkerPhase.PREPARING)))
    assert preparing.status.phase == Phase.STARTING
    assert preparing.status.restarts == 0
    resumed = report(51, launch="b", resumed_from_step=50)
    status = plan(observed(replace(running, status=preparing.status), *pods, report=resumed)).status
    assert (status.restarts, status.attempt, status.progress.replayed_steps) == (1, 1, 10)


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
    assert "code 0 without a word: the image python:3.12 does not start Trainwright's worker" in status.message
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


def test_silence_is_called_stale():
    running = running_job()
    late = NOW + timedelta(seconds=61)
    status = plan(observed(running, pod(0), pod(1), now=late)).status
    assert status.progress.stale
    assert status.reason == "ReportsOverdue"
    assert "no report for 61 s" in status.message


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


RESULTS = Results(folder="/checkpoints/digits-u/results")
LAST = report(100, phase=WorkerPhase.FINISHED, results=RESULTS)
SUCCEEDED = pod(0, phase="Succeeded", exit_code=0, termination=Termination(exit_code=0, report=LAST), finished_at=NOW)
BROKEN = InvalidJobError([FieldError("spec.model.args.hiden", "unknown field")])


def test_a_restart_decided_while_worker_0_wrote_the_results_hides_nothing_of_them():
    before = running_job(93)
    restarting = plan(observed(before, pod(0), failed(1))).status
    assert (restarting.phase, restarting.progress.ended_launch) == (Phase.RESTARTING, LAST.launch)
    over = plan(observed(replace(before, status=restarting), SUCCEEDED, pod(1, attempt=2))).status
    assert (over.phase, over.progress.step, over.results) == (Phase.SUCCEEDED, 100, RESULTS)


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


ADMIN = {"count": 2, "serviceAccountName": "admin"}


def test_service_accounts_need_an_allowlist():
    stranger = replace(job(), spec=spec(workers=ADMIN))
    refused = plan(observed(stranger))
    assert truth(refused.status, ConditionType.ACCEPTED) == "False"
    assert "serviceAccountName" in refused.status.message
    assert (refused.status.attempt, refused.status.phase) == (0, Phase.PENDING)  # it can still be corrected


def test_a_service_account_that_is_no_longer_allowed_stops_only_what_would_be_created():
    running = replace(running_job(), spec=spec(workers=ADMIN))
    on = plan(observed(running, pod(0), pod(1), report=report(20)))
    assert (on.status.phase, on.status.reason, on.status.progress.step) == (Phase.RUNNING, "Training", 20)
    assert on.status.condition(ConditionType.ACCEPTED).reason == "ServiceAccountNotAllowed"
    assert [event.reason for event in on.events] == ["ServiceAccountNotAllowed"]
    running = replace(running, status=on.status)
    assert plan(observed(running, SUCCEEDED, pod(1))).status.phase == Phase.SUCCEEDED
    restarting = replace(running, status=plan(observed(running, failed(0), pod(1))).status)
    assert restarting.status.restarts == 1
    stuck = plan(observed(restarting, failed(0)))
    assert stuck.create == ()
    assert restarting.status.reason == "ServiceAccountNotAllowed"
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


def test_a_job_being_deleted_is_left_to_the_garbage_collector():
    assert plan(observed(replace(running_job(), deleting=True), pod(0))) == Plan()


def test_a_single_replacement_finds_what_it_needs_even_if_somebody_deleted_it():
    before = running_job()
    restarting = plan(observed(before, pod(0), failed(1))).status
    second = plan(observed(replace(before, status=restarting), pod(0), failed(1)))
    assert kinds(second)[-1] == "Pod"
    assert {"ConfigMap", "Service"} <= set(kinds(second))
    assert names(second) == ["digits-1-2"]


def listed(status):
    return [(worker.index, worker.phase) for worker in status.workers.pods]


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
