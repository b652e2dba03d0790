"""A node that went silent: its pods stay in Terminating for ever, and nothing waits for them longer than it must."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, job, observed, pod, report, running_job

from trainwright.api.exit_codes import FailureClass
from trainwright.api.status import ConditionType, Phase
from trainwright.plan import plan
from trainwright.plan.observe import read_pod
from trainwright.plan.urgency import Urgency

MINUTE = timedelta(seconds=60)


def created(decision):
    return {manifest["metadata"]["name"]: manifest["spec"] for manifest in decision.create if manifest["kind"] == "Pod"}


def host_told(spec):
    env = spec["containers"][0]["env"]
    return next(entry["value"] for entry in env if entry["name"] == "TRAINWRIGHT_RENDEZVOUS_HOST")


def decide(before, *pods, **fields):
    """Return the job with what the next pass says of it, and that pass."""
    decision = plan(observed(before, *pods, **fields))
    return replace(before, status=decision.status or before.status), decision


def test_a_successor_of_worker_0_has_a_name_of_its_own_which_all_are_told():
    stuck = pod(0, deletes_at=NOW + MINUTE)
    restarting, _ = decide(running_job(), stuck, pod(1))
    _, carried_out = decide(restarting, stuck, now=NOW + MINUTE + timedelta(seconds=6))
    pods = created(carried_out)
    assert {name: spec["hostname"] for name, spec in pods.items()} == {
        "digits-0-2": "worker-0-2",
        "digits-1-2": "worker-1-2",
    }
    assert {host_told(spec).split(".")[0] for spec in pods.values()} == {"worker-0-2"}


def test_whoever_replaces_a_single_worker_looks_for_worker_0_where_it_is():
    restarting, _ = decide(running_job(), pod(0), pod(1, deletes_at=NOW + MINUTE))
    _, carried_out = decide(restarting, pod(0), pod(1, deletes_at=NOW + MINUTE))
    ((name, spec),) = created(carried_out).items()
    assert name == "digits-1-2"
    assert host_told(spec) == "worker-0-1.digits-11112222.team.svc"


def test_a_partial_start_that_worker_0_comes_late_to_still_meets():
    """Worker 0 could not be created yet when worker 1 had to be replaced: they differ in attempt, not in host."""
    started, _ = decide(job())
    waiting, _ = decide(started, replace(pod(1), phase="Failed", exit_code=137))
    assert (waiting.status.attempt, waiting.status.oldest_attempt) == (2, 1)
    pods = created(decide(waiting, replace(pod(1), phase="Failed", exit_code=137))[1])
    assert pods["digits-0-2"]["hostname"] == "worker-0-1"
    assert {host_told(spec).split(".")[0] for spec in pods.values()} == {"worker-0-1"}


def test_a_pod_stuck_for_ever_causes_no_further_look():
    stuck = pod(0, deletes_at=NOW + MINUTE)
    restarting, _ = decide(running_job(), stuck, pod(1))
    later = NOW + timedelta(hours=1)
    successors = (pod(0, attempt=2), pod(1, attempt=2))
    settled, _ = decide(restarting, stuck, *successors, now=later)
    again = plan(observed(settled, stuck, *successors, now=later))
    assert again.status is None
    assert again.requeue_after is None


@pytest.mark.parametrize("phase", ["Running", "Succeeded"])
def test_a_pod_that_a_former_job_left_does_not_keep_its_name_for_ever(phase):
    """On a dead node, or ended and held by a finalizer."""
    started, _ = decide(job())
    former = pod(1, attempt=1, phase=phase, deletes_at=NOW + MINUTE)
    waiting, decision = decide(started, former_pods=(former,))
    assert waiting.status.attempt == 1
    assert set(created(decision)) == {"digits-0-1", "digits-1-1"}  # refused as long as the name is taken
    later = NOW + MINUTE + timedelta(seconds=5)
    aside, decision = decide(waiting, pod(0), former_pods=(former,), now=later)
    assert (aside.status.attempt, aside.status.oldest_attempt, aside.status.restarts) == (2, 1, 0)
    assert decision.create == ()
    pods = created(plan(observed(aside, pod(0), former_pods=(former,), now=later)))
    assert set(pods) == {"digits-1-2"}
    assert host_told(pods["digits-1-2"]).split(".")[0] == "worker-0-1"


def test_suspension_is_over_when_a_stuck_pod_must_have_ended():
    stuck = pod(0, deletes_at=NOW + MINUTE)
    suspending, decision = decide(replace(running_job(), spec=job(suspend=True).spec), stuck)
    assert suspending.status.reason == "Suspending"
    _, decision = decide(suspending, stuck)
    assert decision.requeue_after == pytest.approx(65)
    suspended, decision = decide(suspending, stuck, now=NOW + MINUTE + timedelta(seconds=5))
    assert suspended.status.reason == "Suspended"
    assert suspended.status.condition(ConditionType.SUSPENDED).status == "True"
    assert decision.requeue_after is None


def test_a_silent_node_is_named_before_and_after_the_cluster_gives_it_up():
    silent = pod(1, silent=True)
    running, decision = decide(running_job(), pod(0), silent, report=report(11))
    assert (running.status.phase, running.status.reason) == (Phase.RUNNING, "NodeSilent")
    assert "node node-1 of worker 1 does not answer" in running.status.message
    assert decision.urgency >= Urgency.NEWS
    evicted = replace(silent, deletes_at=NOW + MINUTE, disrupted="Taint manager: deleting due to NoExecute taint")
    restarting, _ = decide(running, pod(0), evicted)
    assert restarting.status.failure.category == FailureClass.INFRASTRUCTURE
    assert "its node does not answer" in restarting.status.failure.message


@pytest.mark.parametrize(("ready", "container_ready", "silent"), [
    ({"status": "False"}, True, True),
    ({"status": "False"}, False, False),
    ({"status": "False", "reason": "ContainersNotReady"}, True, False),  # a sidecar is not
    ({"status": "False", "reason": "ReadinessGatesNotReady"}, True, False),
    ({"status": "True"}, True, False),
    (None, True, False),
])  # fmt: skip
def test_silence_is_the_control_planes_word_against_the_kubelets_last(ready, container_ready, silent):
    conditions = [] if ready is None else [{"type": "Ready", **ready}]
    status = {
        "phase": "Running",
        "conditions": conditions,
        "containerStatuses": [{"name": "worker", "ready": container_ready, "state": {"running": {}}}],
    }
    pod = {"metadata": {"name": "digits-1-1", "uid": "u"}, "status": status}
    assert read_pod(pod, "digits").silent is silent


def test_pods_leave_a_silent_node_soon_unless_the_user_says_otherwise():
    # Of the tolerations that match a taint, the cluster takes the first.
    unreachable = {"key": "node.kubernetes.io/unreachable", "operator": "Exists"}
    for tolerations, seconds in (
        (None, [30, 30]),
        ([unreachable | {"tolerationSeconds": 600}], [30, 600]),
        ([unreachable | {"effect": "NoSchedule"}], [30, 30, None]),
        ([{"operator": "Exists"}], [30, 30, None]),
        ([{"operator": "Exists", "effect": "NoSchedule"}], [30, 30, None]),
    ):
        workers = {"count": 2} | ({"tolerations": tolerations} if tolerations else {})
        asked = replace(
            job(), spec=job().spec.model_validate(job().spec.to_wire() | {"workers": workers}, strict=False)
        )
        started, _ = decide(asked)
        pods = created(decide(started)[1])
        assert [entry.get("tolerationSeconds") for entry in pods["digits-0-1"]["tolerations"]] == seconds
