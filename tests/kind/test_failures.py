"""What can go wrong with a job on a cluster, and that it costs seconds and is told."""

import json

import jobs
import kube
import pytest


def test_killed_worker_resumes_from_the_checkpoint(operator, namespace):
    kube.apply(jobs.endless("killed"), namespace)
    before = jobs.wait_for(namespace, "killed", lambda now: jobs.running_at(200)(now) and now.get("checkpoints"))
    pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in jobs.pods(namespace, "killed")}

    kube.kubectl("delete", "pod", f"--namespace={namespace}", "killed-1-1", "--grace-period=0", "--force")
    counted = jobs.wait_for(namespace, "killed", lambda now: now.get("restarts") == 1)
    assert counted["failure"]["worker"] == 1
    after = jobs.wait_for(
        namespace, "killed", lambda now: now.get("phase") == "Running" and now["progress"].get("resumedFromStep")
    )
    assert after["attempt"] == 2
    assert after["progress"]["resumedFromStep"] >= before["checkpoints"][-1]["step"]
    assert f"resumed from step {after['progress']['resumedFromStep']}" in after["message"]
    # The other worker waited in its pod and went on.
    survivor = next(pod for pod in jobs.pods(namespace, "killed") if pod["metadata"]["name"] == "killed-0-1")
    assert survivor["metadata"]["uid"] == pods["killed-0-1"]
    events = kube.kubectl("get", "events", f"--namespace={namespace}", "--field-selector=reason=Restarting")
    assert "killed" in events


def test_killed_worker_0_takes_all_along_and_they_come_back(operator, namespace):
    kube.apply(jobs.endless("leader"), namespace)
    jobs.wait_for(namespace, "leader", lambda now: jobs.running_at(200)(now) and now.get("checkpoints"))
    kube.kubectl("delete", "pod", f"--namespace={namespace}", "leader-0-1", "--wait=false")
    after = jobs.wait_for(
        namespace, "leader", lambda now: now.get("phase") == "Running" and now.get("attempt") == 2, timeout=180
    )
    assert after["progress"]["resumedFromStep"] > 0
    assert after["failure"]["category"] == "Preempted"


def test_suspension_frees_the_pods_and_resumes_where_it_was(operator, namespace):
    kube.apply(jobs.endless("pause"), namespace)
    jobs.wait_for(namespace, "pause", jobs.running_at(100))
    kube.kubectl(
        "patch", "tj", "pause", f"--namespace={namespace}", "--type=merge", '--patch={"spec":{"suspend":true}}'
    )
    kube.kubectl("wait", f"--namespace={namespace}", "--for=condition=Suspended", "tj/pause", "--timeout=90s")
    held = jobs.status(namespace, "pause")
    assert all(pod["status"]["phase"] in ("Failed", "Succeeded") for pod in jobs.pods(namespace, "pause"))
    kube.kubectl(
        "patch", "tj", "pause", f"--namespace={namespace}", "--type=merge", '--patch={"spec":{"suspend":false}}'
    )
    again = jobs.wait_for(namespace, "pause", lambda now: now.get("phase") == "Running")
    assert again["progress"]["resumedFromStep"] >= held["progress"]["step"]
    assert again["progress"]["replayedSteps"] == 0
    assert again["restarts"] == 0


LIMITS = """
apiVersion: v1
kind: LimitRange
metadata: {name: limits}
spec: {limits: [{type: Container, default: {memory: 64Mi}}]}
"""
UNBOUND = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: unbound}
spec: {storageClassName: no-such, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"""
VOLUME = {"name": "data", "mountPath": "/data", "configMap": {"name": "no-such"}}
TOKEN = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "no-such", "key": "token"}}}
HELD_UP = {
    "scheduler": (
        {"schedulerName": "no-such"},
        {},
        "no scheduler called no-such",
        "correct spec.workers.schedulerName",
    ),
    "image": ({"image": "localhost:1/no-such"}, {}, "localhost:1/no-such", "correct spec.workers.image"),
    "secret": (
        {"env": [TOKEN]},
        {},
        'secret "no-such" not found',
        "correct spec.workers.env[0].valueFrom.secretKeyRef",
    ),
    "files": (
        {"volumes": [VOLUME]},
        {},
        'configmap "no-such" not found',
        "correct spec.workers.volumes[0].configMap.name",
    ),
    "claim": (
        {},
        {"persistentVolumeClaim": "no-such"},
        'persistentvolumeclaim "no-such" not found',
        "correct spec.checkpoint.persistentVolumeClaim",
    ),
    "unbound": (
        {},
        {"persistentVolumeClaim": "unbound"},
        "unbound immediate PersistentVolumeClaims",
        "no volume is bound to spec.checkpoint.persistentVolumeClaim (unbound)",
    ),
}
"""Jobs that wait for something that does not exist: workers, checkpoint, what the cluster says of it, and what to do."""


def test_what_the_cluster_does_not_have_or_adds_is_told_with_the_field_of_the_spec(operator, namespace):
    kube.apply(LIMITS, namespace)
    kube.apply(UNBOUND, namespace)
    little = {"count": 1, "resources": {"requests": {"cpu": "50m"}}}
    for name, (workers, checkpoint, _, _) in HELD_UP.items():
        kube.apply(jobs.manifest(name, workers={**little, **workers}, checkpoint=checkpoint), namespace)
    kube.apply(jobs.manifest("memory", workers=little), namespace)

    def told(name, *words):
        def holds(now):
            return all(word in now.get("message", "") for word in words)

        return jobs.wait_for(namespace, name, holds)

    for name, (_, _, said, remedy) in HELD_UP.items():
        told(name, said, remedy)
    # What was wrong is corrected in the job that waits.
    roomy = {"requests": {"cpu": "50m"}, "limits": {"memory": "1Gi"}}
    corrected = {"spec": {"workers": {"image": None, "resources": roomy}}}
    kube.kubectl("patch", "tj", "image", f"--namespace={namespace}", "--type=merge", f"--patch={json.dumps(corrected)}")
    assert jobs.wait_for(namespace, "image", jobs.succeeded)["restarts"] == 0
    failure = kube.wait_until(
        lambda: jobs.status(namespace, "memory").get("failure"),
        timeout=60,
        describe=lambda: jobs.status(namespace, "memory"),
    )
    assert failure["category"] == "OutOfMemory"
    assert "more memory than its limit of 64Mi, which comes from the namespace's LimitRange" in failure["message"]


def test_a_deleted_job_leaves_nothing(operator, namespace):
    kube.apply(jobs.endless("deleted"), namespace)
    jobs.wait_for(namespace, "deleted", jobs.running_at(1))
    kube.kubectl("delete", "tj", "deleted", f"--namespace={namespace}", "--timeout=60s")
    jobs.wait_until_nothing_is_left(namespace, "deleted")


def test_a_typo_is_refused_at_apply(operator, namespace):
    typo = jobs.manifest("typo", optimizer={"name": "adam", "learningrate": 0.1})
    with pytest.raises(kube.CommandError, match=r"spec\.optimizer\.learningrate"):
        kube.apply(typo, namespace)
    unknown = jobs.manifest("typo", optimizer={"name": "adamm"})
    with pytest.raises(kube.CommandError, match=r"spec\.optimizer\.name"):
        kube.apply(unknown, namespace)


def test_a_running_job_refuses_what_would_change_its_work(operator, namespace):
    kube.apply(jobs.endless("fixed"), namespace)
    jobs.wait_for(namespace, "fixed", jobs.running_at(1))
    with pytest.raises(kube.CommandError, match=r"spec\.optimizer"):
        kube.apply(jobs.endless("fixed", optimizer={"name": "sgd"}), namespace)
    kube.apply(jobs.endless("fixed", activeDeadlineSeconds=3600), namespace)
    assert jobs.status(namespace, "fixed")["restarts"] == 0
