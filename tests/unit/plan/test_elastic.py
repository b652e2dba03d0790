"""With `workers.minCount` the job that goes on with fewer is running, says who is missing and why, and replaces them."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, failed, job, observed, pod, report, running_job, status_after

from trainwright.api.exit_codes import ExitCode
from trainwright.api.status import ConditionType, Phase
from trainwright.api.worker import Absentee, Waiting, WorkerPhase
from trainwright.plan import plan

NO_GPU = ("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
LATE = NOW + timedelta(seconds=60)


def decide(before, *pods, **fields):
    decision = plan(observed(before, *pods, **fields))
    return replace(before, status=decision.status or before.status), decision


def pending(index, attempt=1):
    return replace(pod(index, attempt, phase="Pending", waiting=NO_GPU), node=None)


def fewer(step=50, launch="b", absent=(2,), **fields):
    return report(step, launch=launch, absent=list(absent), resumed_from_step=40, **fields)


def shrunk(**fields):
    """Return a job of three that has lost worker 2 and goes on with two, and its pods."""
    running = running_job(workers=3, least=2, **fields)
    restarting, _ = decide(running, pod(0), pod(1), failed(2), report=report(45))
    assert (restarting.status.phase, restarting.status.attempt) == (Phase.RESTARTING, 2)
    pods = (pod(0), pod(1), pending(2, attempt=2))
    going_on, decision = decide(restarting, *pods, report=fewer())
    return going_on, pods, decision


def meets(*missing, seconds=65.0, wanted=4):
    """Return what worker 0 says while it waits for these, each as (index, attempt): not who is absent."""
    absentees = [Absentee(worker=index, attempt=came) for index, came in missing]
    waiting = Waiting(joined=wanted - len(missing), wanted=wanted, missing=absentees, seconds=seconds)
    return report(0, launch="rendezvous", phase=WorkerPhase.RENDEZVOUS, waiting=waiting)


def degraded(status):
    condition = status.condition(ConditionType.DEGRADED)
    return None if condition is None else (condition.status, condition.reason)


def test_a_job_that_steps_with_fewer_is_running_and_says_who_is_missing_and_why():
    going_on, _, decision = shrunk()
    status = going_on.status
    assert (status.phase, status.reason) == (Phase.RUNNING, "Training")
    assert status.message.startswith(
        "training with 2 of 3 workers (worker 2: Unschedulable, 0/3 nodes are available: 3 Insufficient "
        "nvidia.com/gpu.): epoch 1 of 3, step 50 of 100"
    )
    assert (status.workers.training, status.workers.absent, status.workers.ready) == (2, [2], 2)
    assert status.summary.workers == "2/3"
    assert degraded(status) == ("True", "FewerWorkers")
    assert [event.reason for event in decision.events] == ["FewerWorkers"]
    assert status.waiting_since is None
    assert status.restarts == 1


def test_all_back_is_no_restart_and_nothing_is_degraded_any_more():
    going_on, _, _ = shrunk()
    everyone = (pod(0), pod(1), pod(2, attempt=2))
    waiting, _ = decide(going_on, *everyone, report=fewer(60))
    assert waiting.status.message.startswith("training with 2 of 3 workers (worker 2: waits to be let in)")
    grown, _ = decide(waiting, *everyone, report=report(70, launch="c", resumed_from_step=61))
    status = grown.status
    assert (status.phase, status.restarts, status.summary.workers) == (Phase.RUNNING, 1, "3/3")
    assert (status.workers.training, status.workers.absent) == (3, [])
    assert status.message.startswith("training: epoch 1 of 3, step 70")
    assert degraded(status) == ("False", "AsExpected")


def test_a_launch_with_fewer_again_counts_like_any_that_no_restart_of_ours_explains():
    running = running_job(workers=3, least=2)
    pods = [pod(index) for index in range(3)]
    shrunken, _ = decide(running, *pods, report=fewer())
    assert (shrunken.status.restarts, shrunken.status.summary.workers) == (1, "2/3")
    assert "worker 2: waits to be let in" in shrunken.status.message


def test_who_is_missing_is_replaced_without_a_word_to_the_others():
    going_on, _, _ = shrunk()
    dead = failed(2, attempt=2)
    again, decision = decide(going_on, pod(0), pod(1), dead, report=fewer(60))
    status = again.status
    assert (status.phase, status.attempt, status.oldest_attempt, status.restarts) == (Phase.RUNNING, 3, 1, 1)
    assert status.progress.launch == "b" != status.progress.ended_launch
    assert decision.create == ()
    _, carried_out = decide(again, pod(0), pod(1), dead, report=fewer(61), now=status.next_start or NOW)
    assert [manifest["metadata"]["name"] for manifest in carried_out.create if manifest["kind"] == "Pod"] == [
        "digits-2-3"
    ]
    later, _ = decide(again, pod(0), pod(1), pending(2, attempt=3), report=fewer(62))
    assert (later.status.phase, later.status.progress.step) == (Phase.RUNNING, 62)


def test_a_missing_worker_whose_pod_vanishes_gets_another_one():
    going_on, _, _ = shrunk()
    again, decision = decide(going_on, pod(0), pod(1), report=fewer(60))
    assert (again.status.phase, again.status.attempt, again.status.restarts) == (Phase.RUNNING, 2, 1)
    assert [manifest["metadata"]["name"] for manifest in decision.create if manifest["kind"] == "Pod"] == ["digits-2-2"]


@pytest.mark.parametrize(("gone", "oldest"), [(1, 1), (0, 3)])
def test_losing_one_that_trains_interrupts_training(gone, oldest):
    going_on, pods, _ = shrunk()
    pods = [failed(gone) if known.index == gone else known for known in pods]
    interrupted, _ = decide(going_on, *pods, report=fewer(60))
    status = interrupted.status
    assert (status.phase, status.attempt, status.oldest_attempt) == (Phase.RESTARTING, 3, oldest)
    assert status.progress.ended_launch == "b"
    assert (status.workers.training, status.workers.absent) == (None, [])


@pytest.mark.parametrize("code", [ExitCode.INFRASTRUCTURE, ExitCode.USER_ERROR, ExitCode.OUT_OF_MEMORY])
def test_a_missing_worker_that_fails_on_and_on_is_replaced_ever_more_seldom_and_fails_no_job(code):
    job, _, _ = shrunk()
    waits = []
    for number in range(9):
        now = NOW + timedelta(hours=number)
        dead = failed(2, attempt=job.status.attempt, code=code)
        job, decision = decide(job, pod(0), pod(1), dead, report=fewer(60 + number), now=now)
        assert not decision.delete
        waits.append(0 if job.status.next_start is None else (job.status.next_start - now).total_seconds())
    status = job.status
    assert (status.phase, status.attempt, status.oldest_attempt) == (Phase.RUNNING, 11, 1)
    assert (status.restarts, status.restarts_without_progress) == (1, 1)
    assert status.failure.worker == 2
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300, 300]
    everyone = (pod(0), pod(1), pod(2, attempt=11))
    grown, _ = decide(job, *everyone, report=report(90, launch="c", resumed_from_step=80))
    assert grown.status.workers.replaced == 0


def test_a_missing_worker_that_is_cut_off_is_no_restart():
    going_on, _, _ = shrunk()
    cut_off = report(1, attempt=2).model_copy(
        update={"phase": WorkerPhase.RENDEZVOUS, "message": "cannot reach worker 0"}
    )
    old = NOW - timedelta(hours=1)
    pods = [pod(index, started_at=old) for index in (0, 1)] + [pod(2, attempt=2, started_at=old)]
    again, _ = decide(going_on, *pods, report=fewer(60), waiting_reports={2: (cut_off, NOW)})
    assert (again.status.phase, again.status.attempt, again.status.restarts) == (Phase.RUNNING, 3, 1)
    _, decision = decide(again, *pods, report=fewer(61))
    assert [item.name for item in decision.delete] == ["digits-2-2"]


def test_the_failure_of_one_that_trains_is_told_before_that_of_one_that_does_not():
    going_on, _, _ = shrunk()
    dead = failed(2, attempt=2, code=ExitCode.USER_ERROR)
    interrupted, _ = decide(going_on, pod(0), failed(1), dead, report=fewer(60))
    assert (interrupted.status.phase, interrupted.status.failure.worker) == (Phase.RESTARTING, 1)


def test_until_the_workers_say_so_nobody_trains_with_fewer():
    running = running_job(workers=3, least=2)
    restarting, _ = decide(running, pod(0), pod(1), failed(2), report=report(45))
    pods = (pod(0), pod(1), pending(2, attempt=2))
    for heard in (None, report(46), fewer(0, phase=WorkerPhase.PREPARING, absent=[1])):
        waiting, _ = decide(restarting, *pods, report=heard)
        assert waiting.status.phase == Phase.RESTARTING
    starting, _ = decide(restarting, *pods, report=fewer(0, phase=WorkerPhase.PREPARING))
    assert starting.status.phase == Phase.STARTING


def test_an_operator_that_has_just_started_trusts_what_it_wrote():
    going_on, pods, _ = shrunk()
    assert plan(observed(going_on, *pods)).status is None


def test_worker_0_looks_for_room_before_the_others_do():
    started, _ = decide(job(workers=3, least=2))
    _, first = decide(started)
    assert [manifest["metadata"]["name"] for manifest in first.create if manifest["kind"] == "Pod"] == ["digits-0-1"]
    _, rest = decide(started, replace(pod(0, phase="Pending"), node=None))
    made = [manifest["metadata"]["name"] for manifest in rest.create if manifest["kind"] == "Pod"]
    assert made == ["digits-1-1", "digits-2-1"]


@pytest.mark.parametrize(("least", "given_up"), [(2, 0), (3, 1), (None, 1)])
def test_enough_workers_satisfy_the_start_deadline(least, given_up):
    started, _ = decide(job(workers=3, least=least, startDeadlineSeconds=60))
    pods = (pod(0), pod(1), pending(2))
    waiting, _ = decide(started, *pods)
    late, _ = decide(waiting, *pods, now=LATE)
    assert late.status.starts_given_up == given_up


def test_without_worker_0_there_are_never_enough():
    started, _ = decide(job(workers=3, least=2, startDeadlineSeconds=60))
    pods = (pending(0), pod(1), pod(2))
    waiting, _ = decide(started, *pods)
    late, _ = decide(waiting, *pods, now=LATE)
    assert late.status.starts_given_up == 1


def test_a_deadline_that_will_be_missed_is_said_first():
    going_on, pods, _ = shrunk(activeDeadlineSeconds=600)
    slow, _ = decide(going_on, *pods, report=fewer(61, steps_per_second=0.01))
    assert degraded(slow.status) == ("True", "DeadlineAtRisk")
    quick, _ = decide(slow, *pods, report=fewer(62, steps_per_second=10.0))
    assert degraded(quick.status) == ("True", "FewerWorkers")


def test_stragglers_are_found_by_their_place_among_those_that_train():
    going_on, pods, _ = shrunk()
    pods = (pod(0), pending(1, attempt=3), pod(2, attempt=2))
    told, _ = decide(going_on, *pods, report=fewer(70, absent=[1], launch="c", stragglers=[{"rank": 1, "factor": 2.0}]))
    straggler = told.status.metrics.stragglers[0]
    assert (straggler.worker, straggler.node) == (2, "node-2")


def test_the_same_again_is_settled():
    going_on, pods, _ = shrunk()
    assert status_after(plan(observed(going_on, *pods, report=fewer(51)))).workers == going_on.status.workers
    assert plan(observed(going_on, *pods, report=fewer())).status is None


def test_workers_that_meet_anew_without_the_absent_one_are_starting_and_say_who_is_waited_for():
    going_on, pods, _ = shrunk()
    meeting, _ = decide(going_on, *pods, report=meets((1, 1), (2, 0), seconds=5.0, wanted=3))
    assert (meeting.status.phase, meeting.status.reason) == (Phase.STARTING, "Rendezvous")
    assert "waiting for worker 1 on node node-1" in meeting.status.message
    assert meeting.status.workers.absent == [2]


def test_a_frozen_worker_without_whom_too_few_are_left_is_replaced():
    old = NOW - timedelta(hours=1)
    pods = [*(pod(index, started_at=old) for index in range(3)), pending(3)]
    going_on, _ = decide(running_job(workers=4, least=3), *pods, report=fewer(absent=[3]))
    meeting, _ = decide(going_on, *pods, report=meets((1, 1), (3, 0), seconds=5.0))
    assert meeting.status.attempt == 1
    frozen, _ = decide(meeting, *pods, report=meets((1, 1), (3, 0)))
    status = frozen.status
    assert (status.phase, status.attempt, status.oldest_attempt) == (Phase.RESTARTING, 2, 1)
    assert "worker 1 on node node-1 hangs" in status.failure.message


@pytest.mark.parametrize("seconds", [59.0, 65.0])
def test_a_frozen_worker_is_replaced_at_the_first_start_too_once_enough_run(seconds):
    old = NOW - timedelta(hours=1)
    pods = [*(pod(index, started_at=old) for index in range(3)), pending(3)]
    started, _ = decide(job(workers=4, least=3))
    frozen, _ = decide(started, *pods, report=meets((1, 0), (3, 0), seconds=seconds))
    assert (frozen.status.attempt == 2) == (seconds >= 60)
    patient, _ = decide(decide(job(workers=4))[0], *pods, report=meets((1, 0), (3, 0)))
    assert patient.status.attempt == 1, "without minCount all wait for the one that has no room"


def test_of_two_frozen_workers_the_second_is_named_once_the_first_is_on_its_way_out():
    old = NOW - timedelta(hours=1)
    pods = [*(pod(index, started_at=old) for index in range(5)), pending(5)]
    restarting, _ = decide(decide(job(workers=6, least=4))[0], *pods, report=meets((1, 0), (2, 0), wanted=6))
    assert (restarting.status.attempt, restarting.status.failure.worker) == (2, 1)
    replacing, decision = decide(restarting, *pods, report=meets((1, 0), (2, 0), wanted=6))
    assert (replacing.status.attempt, "digits-1-1" in {item.name for item in decision.delete}) == (2, True)
    pods[1] = replace(pods[1], deletes_at=NOW + timedelta(seconds=30))
    second, _ = decide(replacing, *pods, report=meets((1, 0), (2, 0), wanted=6))
    assert (second.status.attempt, second.status.failure.worker) == (3, 2)


def test_what_becomes_of_a_worker_without_which_the_first_launch_prepares_fails_no_job():
    started, _ = decide(job(workers=4, least=3))
    members = [pod(index) for index in range(3)]
    heard = report(0, phase=WorkerPhase.PREPARING, absent=[3])
    preparing, _ = decide(started, *members, pending(3), report=heard)
    assert (preparing.status.phase, preparing.status.workers.absent) == (Phase.STARTING, [3])
    again, decision = decide(preparing, *members, failed(3, code=ExitCode.OUT_OF_MEMORY), report=heard)
    assert (again.status.phase, again.status.attempt, again.status.restarts) == (Phase.STARTING, 2, 0)
    assert decision.delete == ()
    meeting, _ = decide(preparing, *members, pending(3), report=meets((1, 1), (3, 0), seconds=5.0))
    assert (meeting.status.phase, meeting.status.workers.absent) == (Phase.STARTING, [3])


def test_a_launch_that_has_grown_is_no_restart_though_it_says_so_while_it_prepares():
    going_on, _, _ = shrunk()
    everyone = (pod(0), pod(1), pod(2, attempt=2))
    preparing, _ = decide(going_on, *everyone, report=report(0, launch="c", phase=WorkerPhase.PREPARING))
    grown, _ = decide(preparing, *everyone, report=report(70, launch="c", resumed_from_step=61))
    assert (grown.status.restarts, grown.status.workers.absent) == (1, [])
