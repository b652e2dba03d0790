"""The Cluster port on a real API server."""

import pytest
from manifests import job, pod

from trainwright.cluster.kubernetes import KubernetesCluster, collection
from trainwright.cluster.port import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    JobKey,
    NotFoundError,
    PodIdentity,
    RejectedError,
)
from trainwright.cluster.rest import TooLargeError


@pytest.fixture
def cluster(server, namespace):
    return KubernetesCluster(server, [namespace])


async def test_creates_lists_and_deletes(cluster, namespace):
    stored = await cluster.create(pod(namespace))
    key = JobKey(namespace, "digits")
    with pytest.raises(AlreadyExistsError):
        await cluster.create(pod(namespace))
    assert [p["metadata"]["name"] for p in await cluster.list_pods()] == ["digits-0-1"]
    assert [p["metadata"]["uid"] for p in await cluster.list_pods(key)] == [stored["metadata"]["uid"]]
    assert await cluster.list_pods(JobKey(namespace, "other")) == []
    with pytest.raises(NotFoundError):
        await cluster.delete_pod(key, "digits-0-1", "another-uid")
    await cluster.delete_pod(key, "digits-0-1", stored["metadata"]["uid"], grace_seconds=0)
    with pytest.raises(NotFoundError):
        await cluster.delete_pod(key, "digits-0-1", stored["metadata"]["uid"])


async def test_says_why_an_object_is_refused(cluster, namespace):
    broken = pod(namespace)
    broken["spec"]["containers"][0]["name"] = "Not A Name"
    with pytest.raises(RejectedError, match="Not A Name"):
        await cluster.create(broken)


async def test_lists_page_by_page(cluster, namespace, monkeypatch):
    monkeypatch.setattr("trainwright.cluster.kubernetes._PAGE", 2)
    for index in range(5):
        await cluster.create(pod(namespace, f"digits-{index}-1"))
    assert len(await cluster.list_pods()) == 5


async def test_writes_a_status_once_per_version(cluster, namespace):
    stored = await cluster.create(job(namespace))
    written = await cluster.write_status(stored, {"phase": "Pending", "message": "one"})
    assert written["status"]["message"] == "one"
    assert written["spec"] == stored["spec"]
    with pytest.raises(ConflictError):
        await cluster.write_status(stored, {"phase": "Pending", "message": "two"})
    # What the new status lacks is gone.
    again = await cluster.write_status(written, {"phase": "Running"})
    assert "message" not in again["status"] or again["status"]["message"] == ""
    await cluster.delete_job(JobKey(namespace, "digits"), stored["metadata"]["uid"])
    with pytest.raises(NotFoundError):
        await cluster.write_status(again, {"phase": "Failed"})


async def test_deletes_only_the_job_it_means(cluster, namespace):
    stored = await cluster.create(job(namespace))
    key = JobKey(namespace, "digits")
    with pytest.raises(NotFoundError):
        await cluster.delete_job(key, "another-uid")
    assert len(await cluster.list_jobs()) == 1
    await cluster.delete_job(key, stored["metadata"]["uid"])
    assert await cluster.list_jobs() == []


async def test_tells_the_newest_warning_about_a_pod(cluster, server, namespace):
    stored = await cluster.create(pod(namespace))
    uid = stored["metadata"]["uid"]

    async def emit(number, kind, seen, message=""):
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"event-{number:03}", "namespace": namespace},
            "involvedObject": {"kind": "Pod", "namespace": namespace, "name": "digits-0-1", "uid": uid},
            "type": kind,
            "reason": f"At{seen}",
            "message": message or f"seen at {seen}",
            "lastTimestamp": f"2026-01-01T00:00:{seen}Z",
        }
        await server.request("POST", collection("v1", "events", namespace), "events", event)

    assert await cluster.pod_warning(namespace, uid) is None
    for number, (kind, seen) in enumerate([("Warning", 10), ("Warning", 12), ("Normal", 14), ("Warning", 11)]):
        await emit(number, kind, seen)
    assert await cluster.pod_warning(namespace, uid) == ("At12", "seen at 12")
    assert await cluster.pod_warning(namespace, "another-uid") is None
    for number in range(10, 70):
        await emit(number, "Warning", 10)
    await emit(99, "Warning", 20)
    assert await cluster.pod_warning(namespace, uid) == ("At20", "seen at 20"), "also on the second page"
    for number in range(100, 110):
        await emit(number, "Warning", 30, "x" * 1_300_000)
    with pytest.raises(TooLargeError):
        await cluster.pod_warning(namespace, uid)


async def test_pods_of_any_size_are_listed_few_at_a_time(cluster, namespace):
    for number in range(5):
        large = pod(namespace)
        large["metadata"]["name"] = f"digits-{number}-1"
        large["spec"]["containers"][0]["env"] = [{"name": "LARGE", "value": "x" * 900_000}]
        await cluster.create(large)
    listed = await cluster.list_pods(JobKey(namespace, "digits"))
    assert [item["metadata"]["name"] for item in listed] == [f"digits-{number}-1" for number in range(5)]


async def test_tells_the_pod_of_a_token(cluster, server, namespace):
    accounts = collection("v1", "serviceaccounts", namespace)
    stored = await cluster.create(pod(namespace))
    uid = stored["metadata"]["uid"]
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": ["ours"],
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "digits-0-1", "uid": uid},
        },
    }
    token = (await server.request("POST", f"{accounts}/default/token", "tokens", request))["status"]["token"]
    assert await cluster.review_token(token, "ours") == PodIdentity(namespace, "digits-0-1", uid)
    assert await cluster.review_token(token, "theirs") is None
    assert await cluster.review_token("nonsense", "ours") is None


async def test_knows_what_is_served(cluster, namespace):
    assert await cluster.serves("networking.k8s.io/v1", "networkpolicies")
    assert not await cluster.serves("networking.k8s.io/v1", "podgroups")
    assert not await cluster.serves("visibility.kueue.x-k8s.io/v1beta1", "localqueues")
    with pytest.raises(ClusterError, match="visibility API is not served") as raised:
        await cluster.pending_workloads(namespace, "team-a")
    assert not isinstance(raised.value, NotFoundError), "that would mean that there is no such queue"
    with pytest.raises(NotFoundError):
        await cluster.create({**pod(namespace), "apiVersion": "scheduling.volcano.sh/v1beta1", "kind": "PodGroup"})
