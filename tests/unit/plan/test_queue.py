"""A job whose workers are admitted all together or not at all: what it says while it waits, and when its time begins."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, job, observed, pod, running_job, status_after

from trainwright.api.status import ConditionType, Phase
from trainwright.plan import plan
from trainwright.plan.types import QueueEntry, QueuePosition

GATED = ("SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates")
FULL = ("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
GROUP = "digits-111122-1x2"


def held(index, why=GATED, **fields):
    """Return a pod that has no place."""
    return replace(pod(index, phase="Pending", waiting=why, **{"group": GROUP, **fields}), node=None)


def begun(**fields):
    waiting = job(**fields)
    return replace(waiting, status=status_after(plan(observed(waiting))))


def told(waiting, *pods, **fields):
    decided = plan(observed(waiting, *pods, **fields))
    return decided, replace(waiting, status=decided.status or waiting.status)


def test_a_job_that_kueue_holds_back_is_queued_and_says_where():
    decided, queued = told(begun(scheduling={"queue": "team-a"}), held(0), held(1))
    assert queued.status.phase == Phase.QUEUED
    assert queued.status.reason == "WaitingInQueue"
    assert queued.status.message == "waiting in queue team-a; no worker holds resources"
    assert decided.queue_entry == QueueEntry("team-a", GROUP, "digits-0-1")
    condition = queued.status.condition(ConditionType.QUEUED)
    assert (condition.status, condition.reason, condition.message) == ("True", "WaitingInQueue", queued.status.message)

    _, placed = told(queued, held(0), held(1), queue_position=QueuePosition(3, 7, 3))
    assert placed.status.message == "waiting in queue team-a at place 3 of 7; no worker holds resources"
    _, shared = told(queued, held(0), held(1), queue_position=QueuePosition(1, 2, 9))
    assert "at place 1 of 2, 9 among all queues that share its quota" in shared.status.message


def test_a_queue_that_does_not_exist_is_named():
    _, queued = told(begun(scheduling={"queue": "team-a"}), held(0), held(1), queue_unknown=True)
    assert (queued.status.phase, queued.status.reason) == (Phase.QUEUED, "QueueNotFound")
    assert queued.status.message == (
        "Kueue knows no queue team-a in this namespace: correct spec.scheduling.queue, or have a LocalQueue of this name "
        "created; no worker holds resources"
    )


def test_a_single_worker_waits_in_a_queue_without_a_group():
    decided, queued = told(begun(workers=1, scheduling={"queue": "team-a"}), held(0, group=None))
    assert queued.status.phase == Phase.QUEUED
    assert decided.queue_entry == QueueEntry("team-a", None, "digits-0-1")


def test_a_gang_that_finds_no_room_is_queued_and_says_what_is_missing():
    decided, queued = told(begun(), held(0, FULL), held(1, FULL))
    assert queued.status.phase == Phase.QUEUED
    assert (
        queued.status.message == f"waiting until all 2 workers can be placed at once; none holds resources: {FULL[1]}"
    )
    assert decided.queue_entry is None


@pytest.mark.parametrize(
    "pods",
    [
        [held(0, FULL, group=None), held(1, FULL, group=None)],  # no gang: one of them might be placed, and hold
        [pod(0, group=GROUP), held(1, FULL)],  # one holds a place already
        [held(0, None), held(1, None)],  # nobody has said yet why they wait
    ],
)
def test_what_is_no_queue(pods):
    _, waiting = told(begun(), *pods)
    assert waiting.status.phase == Phase.PENDING
    assert waiting.status.condition(ConditionType.QUEUED) is None


@pytest.mark.parametrize(
    ("scheduling", "served", "phase"),
    [
        ({}, False, Phase.PENDING),
        ({"gang": "none"}, True, Phase.PENDING),
        ({}, True, Phase.QUEUED),
        ({"gang": "scheduler-plugins"}, False, Phase.QUEUED),
    ],
)
def test_with_quota_but_no_node_only_who_is_placed_together_waits_for_a_turn(scheduling, served, phase):
    """Kueue groups the pods for quota, and each then looks for a place by itself: its deadlines run."""
    queue = {"scheduling": {"queue": "team-a", **scheduling}, "startDeadlineSeconds": 60}
    _, queued = told(begun(**queue), held(0), held(1), groups_served=served)
    assert queued.status.phase == Phase.QUEUED
    later = NOW + timedelta(hours=5)
    _, admitted = told(queued, held(0, FULL), held(1, FULL), groups_served=served, now=later)
    assert admitted.status.phase == phase
    assert ("none holds resources" in admitted.status.message) == (phase == Phase.QUEUED)
    overdue = later + timedelta(seconds=61)
    _, late = told(admitted, held(0, FULL), held(1, FULL), groups_served=served, now=overdue)
    assert late.status.starts_given_up == (phase == Phase.PENDING)


def test_a_start_deadline_counts_from_when_the_turn_has_come():
    _, queued = told(begun(startDeadlineSeconds=60), held(0), held(1))
    later = NOW + timedelta(hours=5)
    decided, still = told(queued, held(0), held(1), now=later)
    assert (still.status.phase, still.status.attempt) == (Phase.QUEUED, 1)
    assert decided.delete == ()

    placed = [replace(held(index, ("ContainerCreating", "")), node="gpu-1") for index in range(2)]
    _, pending = told(still, *placed, now=later)
    assert (pending.status.phase, pending.status.attempt) == (Phase.PENDING, 1)
    assert pending.status.condition(ConditionType.QUEUED).status == "False"
    decided, given_up = told(pending, *placed, now=later + timedelta(seconds=61))
    assert given_up.status.attempt == 2
    assert given_up.status.starts_given_up == 1


def test_the_deadline_of_the_job_stands_still_in_a_queue():
    _, queued = told(begun(activeDeadlineSeconds=600, scheduling={"queue": "team-a"}), held(0), held(1))
    later = NOW + timedelta(hours=5)
    _, still = told(queued, held(0), held(1), now=later)
    assert still.status.phase == Phase.QUEUED
    _, running = told(still, pod(0, group=GROUP), pod(1, group=GROUP), now=later)
    assert (running.status.phase, running.status.started_at) == (Phase.STARTING, later)
    members = [pod(0, group=GROUP), pod(1, group=GROUP)]
    _, over = told(running, *members, now=later + timedelta(seconds=601))
    assert over.status.failure.reason == "DeadlineExceeded"


def test_time_in_a_queue_is_charged_as_such():
    _, queued = told(begun(scheduling={"queue": "team-a"}), held(0), held(1))
    _, running = told(queued, pod(0, group=GROUP), pod(1, group=GROUP), now=NOW + timedelta(seconds=90))
    assert running.status.goodput.queued == 90
    assert running.status.goodput.ratio == 0


def created(decided, kind):
    return [manifest for manifest in decided.create if manifest["kind"] == kind]


def test_one_group_for_each_start_of_all_workers():
    first = begun()
    decided = plan(observed(first, groups_served=True))
    (group,) = created(decided, "PodGroup")
    assert group["metadata"]["name"] == GROUP
    assert all(pod["spec"]["schedulingGroup"] == {"podGroupName": GROUP} for pod in created(decided, "Pod"))

    again = replace(first, status=first.status.model_copy(update={"attempt": 4, "oldest_attempt": 4}))
    (group,) = created(plan(observed(again, groups_served=True)), "PodGroup")
    assert group["metadata"]["name"] == "digits-111122-4x2"


def test_a_worker_replaced_alone_joins_the_group_of_the_others():
    status = begun().status.model_copy(update={"attempt": 2, "oldest_attempt": 1, "phase": Phase.RESTARTING})
    restarting = replace(job(), status=status)
    decided = plan(observed(restarting, pod(0, group=GROUP), groups_served=True))
    assert created(decided, "PodGroup") == []
    (replacement,) = created(decided, "Pod")
    assert replacement["spec"]["schedulingGroup"] == {"podGroupName": GROUP}


@pytest.mark.parametrize("theirs", [None, "digits-111122-1x3"])
def test_a_worker_joins_no_group_that_the_others_are_not_in(theirs):
    """The cluster has come to serve groups since, or the quorum was another: such a group would wait for ever."""
    status = begun().status.model_copy(update={"attempt": 2, "oldest_attempt": 1, "phase": Phase.RESTARTING})
    decided = plan(observed(replace(job(), status=status), pod(0, group=theirs), groups_served=True))
    (replacement,) = created(decided, "Pod")
    assert "schedulingGroup" not in replacement["spec"]
    assert created(decided, "PodGroup") == []


@pytest.mark.parametrize(
    ("served", "workers", "scheduling", "groups"),
    [
        (True, 2, {}, 1),
        (False, 2, {}, 0),
        (True, 1, {}, 0),
        (True, 2, {"gang": "none"}, 0),
        (False, 2, {"gang": "kubernetes"}, 1),
        (False, 1, {"gang": "volcano"}, 1),
        (False, 2, {"queue": "team-a"}, 0),
        (True, 2, {"queue": "team-a"}, 1),
    ],
)
def test_who_gets_a_group(served, workers, scheduling, groups):
    decided = plan(observed(begun(workers=workers, scheduling=scheduling), groups_served=served))
    assert len(created(decided, "PodGroup")) == groups


IN_KUEUE = {"scheduling": {"queue": "team-a"}}


def test_kueue_gets_no_member_too_many():
    """It deletes the replacement of a pod that has not ended yet."""
    status = begun(**IN_KUEUE).status.model_copy(update={"attempt": 2, "oldest_attempt": 1, "phase": Phase.RESTARTING})
    restarting = replace(job(**IN_KUEUE), status=status)
    leaving = pod(1, group=GROUP, deletes_at=NOW + timedelta(seconds=30))
    assert plan(observed(restarting, pod(0, group=GROUP), leaving)).create == ()
    ended = replace(leaving, phase="Failed")
    (replacement,) = created(plan(observed(restarting, pod(0, group=GROUP), ended)), "Pod")
    assert replacement["metadata"]["name"] == "digits-1-2"
    assert replacement["metadata"]["labels"]["kueue.x-k8s.io/pod-group-name"] == GROUP


def test_a_dead_node_costs_kueue_a_new_group():
    """A pod that never ends stays in the group, and leaves no room for another."""
    running = running_job(**IN_KUEUE)
    lost = pod(1, group=GROUP, silent=True, deletes_at=NOW + timedelta(seconds=30))
    decided = plan(observed(running, pod(0, group=GROUP), lost))
    assert (decided.status.attempt, decided.status.oldest_attempt) == (2, 2)
    unqueued = plan(observed(running_job(), pod(0), replace(lost, group=None)))
    assert (unqueued.status.attempt, unqueued.status.oldest_attempt) == (2, 1)
