"""A node that goes silent: its kubelet answers no more, its pods stay in Terminating, and jobs go on elsewhere."""

import faults
import jobs
import kube
import pytest

pytestmark = pytest.mark.timeout(900, func_only=True)

NOTICED = 240
"""Seconds: 50 until the control plane calls the node unreachable, 30 until its pods are evicted, 15 of grace and 5 more,
and the rest for the workers' start."""


def test_a_silent_node_costs_little_more_than_its_discovery(operator, namespace):
    """One job loses its worker 0, another its worker 1, and a third is suspended meanwhile."""
    names = ("silent-0", "silent-1")
    node = jobs.crossed(namespace, *names)
    kube.apply(jobs.on_two_nodes("halted"), namespace)
    before = [
        jobs.wait_for(namespace, name, lambda now: jobs.running_at(200)(now) and now.get("checkpoints"))
        for name in names
    ]
    jobs.wait_for(namespace, "halted", jobs.running_at(50))
    assert node in jobs.nodes(namespace, "halted")
    lost = [jobs.pod(namespace, f"{name}-{victim}-1") for victim, name in enumerate(names)]
    kept = jobs.pod(namespace, "silent-1-0-1")

    with faults.silenced(node):
        patch = '--patch={"spec":{"suspend":true}}'
        kube.kubectl("patch", "tj", "halted", f"--namespace={namespace}", "--type=merge", patch)
        for name in names:
            # It is said before the cluster gives the node up, which takes longer.
            told = jobs.wait_for(
                namespace, name, lambda now: now["reason"] in ("NodeSilent", "Restarting"), timeout=NOTICED
            )
            assert node in told["message"]
        # The operator may have been on that node, too; then another takes over first.
        wait = ("--for=condition=Suspended", "tj/halted", f"--timeout={NOTICED}s")
        kube.kubectl("wait", f"--namespace={namespace}", *wait, timeout=NOTICED + 20)
        after = [
            jobs.wait_for(
                namespace, name, lambda now: now.get("phase") == "Running" and now.get("attempt") == 2, timeout=NOTICED
            )
            for name in names
        ]
        for victim, (name, was, now) in enumerate(zip(names, before, after, strict=True)):
            assert (now["failure"]["category"], now["failure"]["node"]) == ("Infrastructure", node)
            assert now["progress"]["resumedFromStep"] >= was["checkpoints"][-1]["step"]
            # Nobody was there to confirm the end of the old pod, and nobody waited for that.
            stuck = jobs.pod(namespace, f"{name}-{victim}-1")
            assert stuck["metadata"]["uid"] == lost[victim]["metadata"]["uid"]
            assert stuck["metadata"]["deletionTimestamp"]
            assert jobs.pod(namespace, f"{name}-{victim}-2")["spec"]["nodeName"] != node
        # Worker 0's successor has a name of its own: nobody can be sent to the dead one.
        assert [jobs.pod(namespace, f"silent-0-0-{n}")["spec"]["hostname"] for n in (1, 2)] == [
            "worker-0-1",
            "worker-0-2",
        ]
        assert jobs.pod(namespace, "silent-1-0-1")["metadata"]["uid"] == kept["metadata"]["uid"]
        steps = [now["progress"]["step"] for now in after]
        for name, step in zip(names, steps, strict=True):
            jobs.wait_for(namespace, name, jobs.running_at(step + 50))

    # Back again, the node ends the old pods; the jobs do not notice.
    old = {pod["metadata"]["name"] for pod in lost}

    def left() -> set[str]:
        return old & {pod["metadata"]["name"] for name in names for pod in jobs.pods(namespace, name)}

    kube.wait_until(lambda: not left(), timeout=120, describe=left)
    for name, step in zip(names, steps, strict=True):
        steady = jobs.wait_for(namespace, name, jobs.running_at(step + 100))
        assert (steady["attempt"], steady["restarts"]) == (2, 1)
