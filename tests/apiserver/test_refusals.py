"""What a real API server refuses or adds to worker pods, in its own words, and what the job says of it."""

import pytest
from kubelet import FakeKubelet
from manifests import job

from trainwright.cluster.kubernetes import KubernetesCluster
from trainwright.cluster.port import JobKey
from trainwright.plan.observe import read_pod

REFUSED = {
    "runtime": (
        {"runtimeClassName": "no-such"},
        'RuntimeClass "no-such" not found; correct spec.workers.runtimeClassName',
    ),
    "priority": (
        {"priorityClassName": "no-such"},
        "no PriorityClass with name no-such was found; correct spec.workers.priorityClassName",
    ),
    "account": (
        {"serviceAccountName": "no-such"},
        'serviceaccount "no-such" not found; correct spec.workers.serviceAccountName',
    ),
    "large": (
        {"resources": {"limits": {"memory": "2Gi"}}},
        "maximum memory usage per Container is 1Gi, but limit is 2Gi; keep spec.workers.resources within the namespace's LimitRange",
    ),
}


@pytest.fixture
async def limited(server, namespace):
    """The namespace, with a LimitRange."""
    item = {"type": "Container", "default": {"memory": "64Mi", "cpu": "500m"}, "max": {"memory": "1Gi"}}
    manifest = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "limits"}, "spec": {"limits": [item]}}
    await server.request("POST", f"/api/v1/namespaces/{namespace}/limitranges", "limitranges", manifest)
    return namespace


async def test_what_admission_refuses_is_told_with_the_field_and_what_it_adds_is_known(server, limited, start_operator):
    start_operator(service_accounts="no-such")
    cluster, kubelet = KubernetesCluster(server), FakeKubelet(server, limited)
    for name, (workers, _) in REFUSED.items():
        await cluster.create(job(limited, name) | {"spec": job(limited)["spec"] | {"workers": workers}})
    accepted = job(limited, "accepted")
    accepted["spec"]["workers"] = {"schedulerName": "mine", "resources": {"limits": {"cpu": 2}}}
    await cluster.create(accepted)
    for name, (_, words) in REFUSED.items():
        status = await kubelet.until_status(name, lambda now: now.get("reason") == "CreationRefused")
        assert words in status["message"]
    await kubelet.until_pods("accepted", lambda pods: len(pods) == 1)
    (manifest,) = await cluster.list_pods(JobKey(limited, "accepted"))
    pod = read_pod(manifest, "accepted")
    assert pod.unseen
    assert pod.scheduler == "mine"
    assert pod.created_at is not None
    assert (pod.limits, pod.defaults) == ({"cpu": "2", "memory": "64Mi"}, {"memory limit", "memory request"})
