"""A job that is restored from a backup, by the commands of docs/backup.md, among what the former job has left behind."""

import json
import signal

import guides
import pytest
from kubelet import FakeKubelet
from manifests import job

from trainwright.api.names import CONFIG_FILE
from trainwright.cluster.kubernetes import KubernetesCluster
from trainwright.cluster.port import JobKey

MISSING = guides.lacks("kubectl", "jq")
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

SAVED = {"step": 40, "path": "/checkpoints/step-00000040", "bytes": 1, "sha256": "0", "savedAt": "2026-01-02T03:04:05Z"}


async def _say(server, namespace, name, **status):
    """Write into a job's status what reports of its workers would have the operator write."""
    path = f"/apis/trainwright.dev/v1alpha1/namespaces/{namespace}/trainingjobs/{name}"
    current = await server.request("GET", path, "trainingjobs")
    current["status"] = {**current.get("status", {}), **status}
    await server.request("PUT", f"{path}/status", "trainingjobs", current)


async def test_a_restored_job_continues_its_former_self(
    server, api_server, namespace, administrator, start_operator, tmp_path
):
    kubelet, cluster = FakeKubelet(server, namespace), KubernetesCluster(server)
    first = start_operator()
    await first.until_leading()
    former = await cluster.create(job(namespace, workers=2))
    pods = await kubelet.until_pods("digits", lambda pods: len(pods) == 2)
    for pod in pods:
        await kubelet.set(pod, "Running")
    await kubelet.until_status("digits", lambda status: status.get("workers", {}).get("ready") == 2)
    config = await kubelet.config_map(pods[0])
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(10) == 0
    await _say(server, namespace, "digits", checkpoints=[SAVED])
    for name, status in {"unsaved": {}, "finished": {"phase": "Succeeded", "checkpoints": [SAVED]}}.items():
        await cluster.create(job(namespace, name, suspend=True))
        await _say(server, namespace, name, **status)

    def follow(containing, **examples):
        script = guides.commands("backup.md", containing, examples)
        return guides.run(script, tmp_path, KUBECONFIG=str(api_server.kubeconfig))

    follow("> jobs.json", **{"team-a": namespace})
    jobs = f"/apis/trainwright.dev/v1alpha1/namespaces/{namespace}/trainingjobs"
    for name in ("digits", "unsaved", "finished"):
        await administrator.delete(f"{jobs}/{name}")
    # No garbage collector runs here, so the children stay: as those do that somebody restores together with a job.
    follow("kubectl create")

    restored = {item["metadata"]["name"]: item for item in (await administrator.get(jobs)).body["items"]}
    assert restored.keys() == {"digits", "unsaved"}
    start = {"path": f"digits-{former['metadata']['uid']}", "resume": True, "optimizer": False}
    assert restored["digits"]["spec"]["startFrom"] == start
    assert "startFrom" not in restored["unsaved"]["spec"]
    uid = restored["digits"]["metadata"]["uid"]
    assert uid != former["metadata"]["uid"]
    second = start_operator()
    await second.until_leading()
    await kubelet.until_status("digits", lambda status: status.get("attempt") == 1)
    await kubelet.until_status("unsaved", lambda status: status.get("phase") == "Suspended")
    assert {pod["metadata"]["uid"] for pod in await kubelet.pods("digits")} == {p["metadata"]["uid"] for p in pods}

    for pod in pods:  # as the garbage collector does, once it finds that the owner does not exist
        await cluster.delete_pod(JobKey(namespace, "digits"), pod["metadata"]["name"], pod["metadata"]["uid"], 0)
    successors = await kubelet.until_pods(
        "digits", lambda pods: [p["metadata"]["ownerReferences"][0]["uid"] for p in pods] == [uid, uid]
    )
    mounted = await kubelet.config_map(successors[0])
    assert mounted["metadata"]["name"] != config["metadata"]["name"]
    worker = json.loads(mounted["data"][CONFIG_FILE])
    assert worker["uid"] == uid
    assert worker["spec"]["startFrom"] == {"path": start["path"], "resume": True}
    for pod in successors:
        await kubelet.set(pod, "Running")
    status = await kubelet.until_status("digits", lambda status: status.get("workers", {}).get("ready") == 2)
    assert (status["attempt"], status["restarts"], status.get("failure")) == (1, 0, None)
    path = f"/api/v1/namespaces/{namespace}/configmaps/{config['metadata']['name']}"
    assert (await administrator.get(path)).body["metadata"]["resourceVersion"] == config["metadata"]["resourceVersion"]
