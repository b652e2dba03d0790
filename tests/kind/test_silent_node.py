"""A node that goes silent: its kubelet answers no more, its pods stay in Terminating, and the job goes on elsewhere."""

import faults
import jobs
import kube
import pytest

pytestmark = pytest.mark.timeout(600, func_only=True)

NOTICED = 240
"""Seconds: 50 until the control plane calls the node unreachable, 30 until its pods are evicted, 15 of grace and 5 more,
and the rest for the workers' start."""


@pytest.mark.parametrize("victim", [0, 1])
def test_a_silent_node_costs_little_more_than_its_discovery(operator, namespace, victim):
    name = f"silent-{victim}"
    kube.apply(jobs.on_two_nodes(name), namespace)
    before = jobs.wait_for(namespace, name, lambda now: jobs.running_at(200)(now) and now.get("checkpoints"))
    lost, kept = jobs.pod(namespace, f"{name}-{victim}-1"), jobs.pod(namespace, f"{name}-{1 - victim}-1")
    assert lost["spec"]["nodeName"] != kept["spec"]["nodeName"]
    with faults.silenced(lost["spec"]["nodeName"]):
        # It is said before the cluster gives the node up, which takes longer.
        told = jobs.wait_for(
            namespace, name, lambda now: now["reason"] in ("NodeSilent", "Restarting"), timeout=NOTICED
        )
        assert lost["spec"]["nodeName"] in told["message"]
        after = jobs.wait_for(
            namespace, name, lambda now: now.get("phase") == "Running" and now.get("attempt") == 2, timeout=NOTICED
        )
        assert after["failure"]["category"] == "Infrastructure"
        assert after["failure"]["node"] == lost["spec"]["nodeName"]
        assert after["progress"]["resumedFromStep"] >= before["checkpoints"][-1]["step"]
        # Nobody was there to confirm the end of the old pod, and nobody waited for that.
        stuck = jobs.pod(namespace, f"{name}-{victim}-1")
        assert stuck["metadata"]["uid"] == lost["metadata"]["uid"]
        assert stuck["metadata"]["deletionTimestamp"]
        replacement = jobs.pod(namespace, f"{name}-{victim}-2")
        assert replacement["spec"]["nodeName"] != lost["spec"]["nodeName"]
        if victim == 0:
            # Worker 0's successor has a name of its own: nobody can be sent to the dead one.
            assert (stuck["spec"]["hostname"], replacement["spec"]["hostname"]) == ("worker-0-1", "worker-0-2")
        else:
            assert jobs.pod(namespace, f"{name}-0-1")["metadata"]["uid"] == kept["metadata"]["uid"]
        step = after["progress"]["step"]
        jobs.wait_for(namespace, name, jobs.running_at(step + 50))
    # Back again, the node ends the old pod; the job does not notice.
    kube.wait_until(
        lambda: f"{name}-{victim}-1" not in {item["metadata"]["name"] for item in jobs.pods(namespace, name)},
        timeout=120,
        describe=lambda: [item["metadata"]["name"] for item in jobs.pods(namespace, name)],
    )
    steady = jobs.wait_for(namespace, name, jobs.running_at(step + 100))
    assert (steady["attempt"], steady["restarts"]) == (2, 1)


def test_a_job_is_suspended_although_a_node_is_silent(operator, namespace):
    kube.apply(jobs.on_two_nodes("halted"), namespace)
    jobs.wait_for(namespace, "halted", jobs.running_at(50))
    with faults.silenced(jobs.pod(namespace, "halted-1-1")["spec"]["nodeName"]):
        patch = '--patch={"spec":{"suspend":true}}'
        kube.kubectl("patch", "tj", "halted", f"--namespace={namespace}", "--type=merge", patch)
        # The operator may have been on that node, too; then another takes over first.
        wait = ("--for=condition=Suspended", "tj/halted", f"--timeout={NOTICED}s")
        kube.kubectl("wait", f"--namespace={namespace}", *wait, timeout=NOTICED + 20)
