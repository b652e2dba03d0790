"""Pods that keep failing on one node are moved off it, unless the job can run nowhere else."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, SETTINGS, UID, failed, job, observed, pod, report, running_job, spec

from trainwright.api.exit_codes import ExitCode, classify
from trainwright.api.status import AvoidedNode, Checkpoint, Phase
from trainwright.api.worker import Cause
from trainwright.build import WorkerSlot, worker_pod
from trainwright.plan import plan

NO_ROOM = ("Unschedulable", "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.")
LATER = NOW + timedelta(seconds=31)
SAVED = [Checkpoint(step=10, path="/checkpoints/x/step-00000010", bytes=1, sha256="a" * 64, saved_at=NOW)]


def decide(before, *pods, **fields):
    decision = plan(observed(before, *pods, **fields))
    return replace(before, status=decision.status or before.status), decision


def excluded(manifest):
    """Return the nodes that each term of a pod's node affinity rules out."""
    required = manifest["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return [
        [field["values"][0] for field in term["matchFields"] if field["operator"] == "NotIn"]
        for term in required["nodeSelectorTerms"]
    ]


def failed_twice(index=1, code=ExitCode.INFRASTRUCTURE):
    """Return a job whose worker has failed twice on the same node, right after the second time, and its pods."""
    casualty = replace(failed(index, code=code), node="bad")
    restarting, _ = decide(running_job(restart={"backoffSeconds": 0}), pod(1 - index), casualty)
    first = index == 0
    others = pod(1 - index, attempt=2 if first else 1)
    again = report(12, attempt=2 if first else 1, launch="b")
    running, _ = decide(restarting, others, replace(pod(index, attempt=2), node="bad"), report=again)
    casualty = replace(failed(index, attempt=2, code=code), node="bad")
    twice, _ = decide(running, others, casualty)
    return twice, others, casualty


@pytest.mark.parametrize("code", [ExitCode.INFRASTRUCTURE, ExitCode.HANG, ExitCode.INTERNAL])
def test_two_failures_on_a_node_and_replacements_keep_off_it(code):
    twice, others, casualty = failed_twice(code=code)
    (shunned,) = twice.status.avoided_nodes
    assert (shunned.node, shunned.since, shunned.waived) == ("bad", NOW, False)
    assert shunned.reason.startswith("2 failures, the last: worker 1 on node bad")
    replacement = plan(observed(twice, others, casualty)).create[-1]
    assert replacement["metadata"]["name"] == "digits-1-3"
    assert excluded(replacement) == [["bad"]]


def test_a_single_failure_blames_nobody():
    once, _ = decide(running_job(), pod(0), failed(1))
    assert once.status.avoided_nodes == []
    assert once.status.node_failures == {"node-1": 1}
    assert "affinity" not in plan(observed(once, pod(0), failed(1))).create[-1]["spec"]


def fails_in_place(times, index=1, code=ExitCode.INTERNAL, saved=(), **fields):
    """Return a job whose worker has started its processes again so many times inside its pod, and its pods."""
    cause = Cause(exit_code=code, category=classify(code), message="uncorrectable ECC error", worker=index, rank=index)
    pods = [pod(0), pod(1)]
    job, decision = running_job(**fields), None
    for launch in "bcdefgh"[:times]:
        heard = report(12, launch=launch, resumed_from_step=10, relaunched=cause, checkpoints=list(saved))
        job, decision = decide(job, *pods, report=heard)
    return job, pods, heard, decision


def test_the_second_failure_inside_a_pod_moves_the_worker_off_its_node():
    once, _, _, decision = fails_in_place(1)
    assert (once.status.node_failures, once.status.avoided_nodes) == ({"node-1": 1}, [])
    assert (once.status.phase, once.status.attempt, decision.delete) == (Phase.RUNNING, 1, ())
    twice, pods, heard, decision = fails_in_place(2)
    status = twice.status
    assert (status.phase, status.attempt, status.oldest_attempt) == (Phase.RESTARTING, 2, 1)
    assert (status.restarts, status.restarts_without_progress) == (2, 2), "it was counted once"
    assert [event.reason for event in decision.events] == ["Restarting", "NodeAvoided"]
    moving, decision = decide(twice, *pods, report=heard)
    assert [item.name for item in decision.delete] == ["digits-1-1"]
    replacement = decision.create[-1]
    assert replacement["metadata"]["name"] == "digits-1-2"
    assert excluded(replacement) == [["node-1"]]
    again = report(20, launch="x", resumed_from_step=12)
    elsewhere, decision = decide(moving, pod(0), replace(pod(1, attempt=2), node="node-2"), report=again)
    assert (elsewhere.status.phase, elsewhere.status.attempt, decision.delete) == (Phase.RUNNING, 2, ())
    failed_there, _ = decide(elsewhere, pod(0), replace(failed(1, attempt=2), node="node-2"), report=again)
    assert failed_there.status.phase == Phase.RESTARTING, "the limit leaves room for a try on another node"


def test_worker_0_takes_all_along_when_it_is_moved():
    twice, pods, heard, _ = fails_in_place(2, index=0)
    assert (twice.status.attempt, twice.status.oldest_attempt) == (2, 2)
    _, decision = decide(twice, *pods, report=heard)
    assert [item.name for item in decision.delete] == ["digits-0-1", "digits-1-1"]


@pytest.mark.parametrize(
    ("index", "saved", "checkpoint", "moves"),
    [(0, SAVED, {}, False), (0, SAVED, {"uri": "s3://bucket/x"}, True), (0, [], {}, True), (1, SAVED, {}, True)],
    ids=["saved in its pod", "saved elsewhere", "nothing saved", "another worker"],
)
def test_worker_0_stays_where_it_has_recovered_if_its_checkpoints_would_not_move_along(index, saved, checkpoint, moves):
    twice, pods, heard, decision = fails_in_place(2, index=index, saved=saved, checkpoint=checkpoint)
    assert "NodeAvoided" in [event.reason for event in decision.events], "it is for pods made later"
    assert (twice.status.phase == Phase.RESTARTING, twice.status.checkpoints) == (moves, saved)
    again, decision = decide(twice, *pods, report=heard)
    assert (again.status.attempt, bool(decision.delete)) == (2 if moves else 1, moves)


def test_whoever_cannot_be_moved_goes_on_in_its_pod():
    twice, _, _, _ = fails_in_place(2)
    known = twice.status.avoided_nodes[0].model_copy(update={"waived": True})
    settled = running_job()
    settled = replace(
        settled,
        status=settled.status.model_copy(update={"avoided_nodes": [known], "node_failures": {"node-1": 2}}),
    )
    cause = Cause(exit_code=70, category=classify(70), message="x", worker=1, rank=1)
    again, decision = decide(settled, pod(0), pod(1), report=report(12, launch="z", relaunched=cause))
    assert (again.status.phase, again.status.attempt, decision.delete) == (Phase.RUNNING, 1, ())
    assert again.status.node_failures == {"node-1": 3}


def test_what_is_not_the_nodes_fault_is_not_blamed_on_it():
    twice, _, _ = failed_twice(code=ExitCode.PREEMPTED)
    assert (twice.status.restarts, twice.status.node_failures, twice.status.avoided_nodes) == (2, {}, [])
    stopped, _, _, _ = fails_in_place(3, code=ExitCode.PREEMPTED)
    assert (stopped.status.restarts, stopped.status.node_failures) == (3, {})


def test_avoidance_that_leaves_no_room_is_given_up_and_said():
    twice, others, _ = failed_twice()
    stuck = replace(pod(1, attempt=3, phase="Pending", waiting=NO_ROOM), node=None)
    waiting, decision = decide(twice, others, stuck)
    assert waiting.status.reason == "Unschedulable"
    assert "kept off node bad, where workers failed" in waiting.status.message
    assert decision.requeue_after == pytest.approx(30)
    relented, decision = decide(waiting, others, stuck, now=LATER)
    assert (relented.status.attempt, relented.status.oldest_attempt, relented.status.restarts) == (4, 1, 2)
    assert "node bad may be used again" in relented.status.message
    assert [event.reason for event in decision.events] == ["NodeAllowed"]
    assert (decision.delete, decision.create) == ((), ())
    # Only the pod that never ran is made anew; the other worker stays.
    gone, decision = decide(relented, others, stuck, now=LATER)
    assert [deletion.name for deletion in decision.delete] == ["digits-1-3"]
    assert decision.create == ()
    *_, replacement = plan(observed(gone, others, now=LATER)).create
    assert replacement["metadata"]["name"] == "digits-1-4"
    assert "affinity" not in replacement["spec"]


def test_worker_0_without_room_takes_all_along():
    twice, _, _ = failed_twice(0)
    stuck = replace(pod(0, attempt=3, phase="Pending", waiting=NO_ROOM), node=None)
    waiting, _ = decide(twice, stuck, pod(1, attempt=3))
    relented, _ = decide(waiting, stuck, pod(1, attempt=3), now=LATER)
    assert (relented.status.attempt, relented.status.oldest_attempt) == (4, 4)
    _, decision = decide(relented, stuck, pod(1, attempt=3), now=LATER)
    assert [deletion.name for deletion in decision.delete] == ["digits-0-3", "digits-1-3"]


def test_a_node_that_was_allowed_again_stays_so():
    known = AvoidedNode(node="bad", since=NOW, waived=True)
    running = running_job()
    running = replace(
        running,
        status=running.status.model_copy(update={"avoided_nodes": [known], "node_failures": {"bad": 2}}),
    )
    status = plan(observed(running, pod(0), replace(failed(1), node="bad"))).status
    assert status.phase == Phase.RESTARTING
    assert status.avoided_nodes == [known]


def test_memory_of_nodes_is_bounded():
    running = running_job(restart={"limit": 1000, "backoffSeconds": 0})
    for number in range(200):
        names = {f"node-{number}-{i}": 1 for i in range(1)}
        status = running.status.model_copy(
            update={"node_failures": {**running.status.node_failures, **names}, "phase": Phase.RUNNING}
        )
        casualty = replace(failed(1, attempt=number + 1), node=f"node-{number}-0")
        running, _ = decide(replace(running, status=status), pod(0), casualty)
    assert len(running.status.node_failures) == 64
    assert [known.node for known in running.status.avoided_nodes] == [f"node-{n}-0" for n in range(184, 200)]


ZONES = [
    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["x"]}]},
    {},
]


@pytest.mark.parametrize(
    ("affinity", "terms"),
    [
        (None, [["bad", "worse"]]),
        ({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}, [["bad", "worse"]]),
        ({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}, [["bad", "worse"]]),
        (
            {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": ZONES}}},
            [["bad", "worse"], ["bad", "worse"]],
        ),
    ],
)
def test_the_users_affinity_is_kept(affinity, terms):
    asked = spec(workers={"count": 2} | ({"affinity": affinity} if affinity else {}))
    manifest = worker_pod("team", "digits", UID, asked, SETTINGS, "config", WorkerSlot(1, 3, 1, ("bad", "worse")))
    assert excluded(manifest) == terms
    for kind, wanted in (affinity or {}).items():
        if kind != "nodeAffinity":
            assert manifest["spec"]["affinity"][kind] == wanted


def test_a_pod_that_waits_for_a_node_moves_to_the_new_terms_with_the_next_attempt():
    started, _ = decide(job(workers=3))
    pending = replace(pod(1, phase="Pending"), node=None)
    restarting, _ = decide(started, pod(0), pending, failed(2))
    _, decision = decide(restarting, pod(0), pending, failed(2))
    assert [deletion.name for deletion in decision.delete] == ["digits-1-1"]
    assert [m["metadata"]["name"] for m in decision.create if m["kind"] == "Pod"] == ["digits-2-2"]
