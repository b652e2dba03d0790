"""What administrators and control planes do to running jobs: drains, outages, rotated tokens."""

import json

import faults
import jobs
import kube
import pytest

pytestmark = pytest.mark.timeout(600, func_only=True)

NOTICED = 30
"""Seconds within which what happened behind the operator's back must have been answered: a tenth of a resync."""


def trained_on(now: jobs.Manifest) -> int:
    return now["progress"]["step"] + 1


def test_a_drained_node_costs_no_step(operator, namespace):
    """One job loses its worker 0 with the node, another its worker 1."""
    names = ("drained-0", "drained-1")
    node = jobs.crossed(namespace, *names)
    before = [
        jobs.wait_for(namespace, name, lambda now: jobs.running_at(200)(now) and now.get("checkpoints"))
        for name in names
    ]
    kept = jobs.pod(namespace, "drained-1-0-1")
    # A pod that ends while no operator leads has disappeared when the next one looks, and nothing tells it why. The other
    # operator may well live on the node.
    faults.lead_elsewhere(operator, node)
    with faults.drained(node):
        after = [
            jobs.wait_for(
                namespace, name, lambda now: now.get("phase") == "Running" and now.get("attempt") == 2, timeout=180
            )
            for name in names
        ]
        for victim, (name, was, now) in enumerate(zip(names, before, after, strict=True)):
            assert now["failure"]["category"] == "Preempted"
            assert (now["failure"]["worker"], now["failure"]["node"]) == (victim, node)
            assert "taken away by the cluster" in now["failure"]["message"]
            # What was done before was saved on the way out, and preemptions count against no limit.
            assert now["progress"]["replayedSteps"] == 0
            assert now["progress"]["resumedFromStep"] >= was["progress"]["step"]
            assert (now["restarts"], now["restartsWithoutProgress"]) == (1, 0)
            assert jobs.pod(namespace, f"{name}-{victim}-2")["spec"]["nodeName"] != node
        assert jobs.pod(namespace, "drained-1-0-1")["metadata"]["uid"] == kept["metadata"]["uid"]
        events = kube.kubectl_json("get", "events", f"--namespace={namespace}", "--field-selector=reason=Restarting")
        counted = {
            event["involvedObject"]["name"] for event in events["items"] if "against no limit" in event["message"]
        }
        assert counted == set(names)
    for name, now in zip(names, after, strict=True):
        assert jobs.wait_for(namespace, name, jobs.running_at(trained_on(now)))["attempt"] == 2


def test_training_goes_on_while_the_api_server_is_away(operator, namespace):
    """It crashes, and is restarted; a worker that another job loses meanwhile is replaced when it is back."""
    kube.apply(jobs.endless("unaware"), namespace)
    kube.apply(jobs.on_two_nodes("orphan"), namespace)
    before = jobs.wait_for(namespace, "unaware", jobs.running_at(100))
    pods = jobs.uids(namespace, "unaware")

    def unharmed() -> None:
        after = jobs.wait_for(namespace, "unaware", jobs.running_at(trained_on(before)))
        later = jobs.wait_for(namespace, "unaware", jobs.running_at(trained_on(after)))
        assert (later["restarts"], later["attempt"], later["progress"]["replayedSteps"]) == (0, 1, 0)
        assert jobs.uids(namespace, "unaware") == pods
        # Nobody could write it down meanwhile, but the workers knew what they had done with the time.
        assert later["goodput"]["stalled"] == later["goodput"]["restarting"] == 0

    faults.crash_api_server()
    faults.await_api_server()
    unharmed()

    before = jobs.status(namespace, "unaware")
    jobs.wait_for(namespace, "orphan", lambda now: jobs.running_at(200)(now) and now.get("checkpoints"))
    lost = jobs.pod(namespace, "orphan-1-1")
    container = lost["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    node = lost["spec"]["nodeName"]
    faults.restart_api_server()
    kube.wait_until(lambda: not faults.api_answers(), timeout=60, describe=lambda: "the API server never went down")
    kube.run("docker", "exec", node, "ctr", "--namespace=k8s.io", "task", "kill", "--signal=SIGKILL", container)
    kube.wait_until(faults.api_answers, timeout=180, describe=lambda: "the API server does not come back")
    replaced = jobs.wait_for(namespace, "orphan", lambda now: now.get("phase") == "Running" and now.get("attempt") == 2)
    assert (replaced["failure"]["category"], replaced["failure"]["worker"]) == ("Infrastructure", 1)
    assert replaced["failure"]["exitCode"] == 137
    assert replaced["progress"]["resumedFromStep"] > 0
    assert replaced["restarts"] == 1
    unharmed()


def test_what_happened_while_a_watch_expired_is_noticed_at_once(operator, namespace):
    """An operator that hears nothing for a while finds its watch refused: 410, too old. What is gone is in no listing."""
    # Long enough to outlive the silence: it must be the watch that is renewed here, not the process.
    lease = '--set-json=extraEnv=[{"name":"TRAINWRIGHT_LEASE_DURATION","value":"120"}]'
    with faults.operator_with(operator, lease):
        faults.spare_silent_operators(operator)
        for name in ("bereft", "gone"):
            kube.apply(jobs.endless(name), namespace)
        before = jobs.wait_for(
            namespace, "bereft", lambda now: jobs.running_at(200)(now) and now.get("checkpoints"), timeout=180
        )
        jobs.wait_for(namespace, "gone", jobs.running_at(1))
        leader = faults.leader(operator)
        path = f"/apis/trainwright.dev/v1alpha1/namespaces/{namespace}/trainingjobs"
        with faults.frozen(operator, leader):
            version = json.loads(kube.kubectl("get", f"--raw={path}"))["metadata"]["resourceVersion"]
            faults.forget_history()
            faults.crash_api_server()
            faults.await_api_server()
            said = kube.kubectl("get", f"--raw={path}?watch=1&timeoutSeconds=5&resourceVersion={version}")
            assert json.loads(said.splitlines()[0])["object"]["code"] == 410
            faults.delete_pod(namespace, "bereft-1-1", force=True)
            kube.kubectl("delete", "tj", "gone", f"--namespace={namespace}", "--cascade=orphan")
        after = jobs.wait_for(namespace, "bereft", lambda now: now.get("attempt") == 2, timeout=NOTICED)
        assert (after["failure"]["worker"], after["restarts"]) == (1, 1)
        resumed = jobs.wait_for(namespace, "bereft", lambda now: now["phase"] == "Running")
        assert resumed["progress"]["resumedFromStep"] >= before["checkpoints"][-1]["step"]
        assert faults.leader(operator) == leader
        ran = jobs.pod(operator, leader)["status"]["containerStatuses"][0]
        assert ran["restartCount"] == 0


def test_rotated_tokens_are_taken_up(operator, namespace):
    """Kubelets hand out new tokens from time to time: workers report with them, and the operator works with its own."""
    kube.apply(jobs.endless("rotated"), namespace)
    before = jobs.wait_for(namespace, "rotated", jobs.running_at(100))
    leader = faults.leader(operator)

    def tokens() -> tuple[str, str]:
        files = ("/var/run/secrets/trainwright/token", "/var/run/secrets/kubernetes.io/serviceaccount/token")
        pods = (("rotated-0-1", namespace), (leader, operator))
        return tuple(
            kube.kubectl("exec", pod, f"--namespace={where}", "--", "python", "-c", f"print(open('{file}').read())")
            for (pod, where), file in zip(pods, files, strict=True)
        )

    def complaints() -> int:
        return kube.kubectl("logs", "rotated-0-1", f"--namespace={namespace}").count("report not delivered")

    old, complained = tokens(), complaints()
    faults.restart_kubelets()
    kube.wait_until(
        lambda: all(new != was for new, was in zip(tokens(), old, strict=True)),
        timeout=240,
        describe=lambda: "the kubelets keep the old tokens",
    )
    now = jobs.status(namespace, "rotated")
    after = jobs.wait_for(namespace, "rotated", jobs.running_at(trained_on(now)))
    assert (after["restarts"], after["attempt"], after["progress"]["stale"]) == (0, 1, False)
    assert after["progress"]["step"] > before["progress"]["step"]
    assert complaints() == complained
