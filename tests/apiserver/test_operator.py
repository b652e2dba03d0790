"""The whole operator process on a real API server: kopf, queue, plan, writes, probes."""

import asyncio
import base64
import re
import signal
import ssl
import time

import aiohttp
import pytest
from kubelet import FakeKubelet
from manifests import job

from trainwright.api.names import report_audience
from trainwright.api.worker import WorkerPhase, WorkerReport
from trainwright.cluster.kubernetes import KubernetesCluster


@pytest.fixture
def kubelet(server, namespace):
    return FakeKubelet(server, namespace)


async def _until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.05)


def _writes(operator):
    text = operator.get("/metrics")[1]
    found = re.findall(
        r'trainwright_api_requests_total\{code="2..",resource="([^"]+)",verb="(POST|PUT|DELETE)"\} (\S+)', text
    )
    return {(verb, resource): float(n) for resource, verb, n in found if resource not in ("leases", "secrets")}


async def _run_to_the_end(server, namespace, kubelet, name, workers):
    await KubernetesCluster(server).create(job(namespace, name, workers=workers))
    pods = await kubelet.until_pods(name, lambda pods: len(pods) == workers)
    for pod in pods:
        await kubelet.set(pod, "Running")
    await kubelet.until_status(name, lambda s: s.get("workers", {}).get("ready") == workers)
    for pod in pods:
        await kubelet.set(pod, "Succeeded", exit_code=0)
    return await kubelet.until_status(name, lambda s: s.get("phase") == "Succeeded")


@pytest.mark.parametrize("workers", [1, 4])
async def test_brings_a_job_to_its_end_with_few_writes(server, namespace, kubelet, start_operator, workers):
    operator = start_operator()
    await operator.until_leading()
    status = await _run_to_the_end(server, namespace, kubelet, "digits", workers)
    assert status["attempt"] == 1
    assert status["restarts"] == 0
    writes = _writes(operator)
    assert sum(writes.values()) <= workers + 8, writes
    assert operator.get("/healthz")[0] == 200
    assert operator.get("/readyz")[0] == 200
    operator.process.send_signal(signal.SIGTERM)
    assert operator.process.wait(10) == 0
    assert [line for line in operator.lines() if line["level"] in ("warning", "error", "critical")] == []


async def test_a_pod_that_fails_is_replaced_quickly(server, namespace, kubelet, start_operator):
    operator = start_operator()
    await operator.until_leading()
    await KubernetesCluster(server).create(job(namespace, restart={"backoffSeconds": 0}))
    (first,) = await kubelet.until_pods("digits", lambda pods: len(pods) == 1)
    await kubelet.set(first, "Running")
    await kubelet.until_status("digits", lambda s: s.get("workers", {}).get("ready") == 1)
    await kubelet.set(first, "Failed", exit_code=69)
    begun = time.monotonic()
    await kubelet.until_pods("digits", lambda pods: any(p["metadata"]["name"] == "digits-0-2" for p in pods))
    assert time.monotonic() - begun < 5
    status = await kubelet.until_status("digits", lambda s: s.get("restarts") == 1)
    assert status["failure"]["exitCode"] == 69


async def test_a_second_replica_takes_over_when_the_first_stops(server, namespace, kubelet, start_operator):
    first = start_operator(pod_name="a")
    await first.until_leading()
    second = start_operator(pod_name="b")
    await _until(lambda: second.get("/readyz")[0] == 200)
    assert second.metric("trainwright_leading") == 0
    await KubernetesCluster(server).create(job(namespace))
    await kubelet.until_pods("digits", lambda pods: len(pods) == 1)
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(10) == 0
    await second.until_leading()
    (pod,) = await kubelet.pods("digits")
    await kubelet.set(pod, "Running")
    await kubelet.set(pod, "Succeeded", exit_code=0)
    assert (await kubelet.until_status("digits", lambda s: s.get("phase") == "Succeeded"))["attempt"] == 1


async def test_killed_in_the_middle_it_goes_on_where_it_was(server, namespace, kubelet, start_operator):
    first = start_operator(pod_name="same")
    await first.until_leading()
    await KubernetesCluster(server).create(job(namespace, workers=4))
    first.process.kill()
    first.process.wait()
    second = start_operator(pod_name="same")
    begun = time.monotonic()
    await second.until_leading()
    pods = await kubelet.until_pods("digits", lambda pods: len(pods) == 4)
    assert time.monotonic() - begun < 10
    assert sorted(pod["metadata"]["name"] for pod in pods) == [f"digits-{n}-1" for n in range(4)]


async def test_an_edit_while_it_runs_is_seen(server, namespace, kubelet, start_operator):
    operator = start_operator()
    await operator.until_leading()
    cluster = KubernetesCluster(server)
    await cluster.create(job(namespace))
    (pod,) = await kubelet.until_pods("digits", lambda pods: len(pods) == 1)
    await kubelet.set(pod, "Running")
    await kubelet.until_status("digits", lambda s: s.get("workers", {}).get("ready") == 1)
    current = await kubelet.job("digits")
    current["spec"]["suspend"] = True
    path = f"/apis/trainwright.dev/v1alpha1/namespaces/{namespace}/trainingjobs/digits"
    await server.request("PUT", path, "trainingjobs", current)
    await kubelet.until_status("digits", lambda s: s.get("phase") == "Suspended")
    await kubelet.until_pods("digits", lambda pods: not pods or pods[0]["metadata"].get("deletionTimestamp"))


async def test_a_worker_reports_with_its_pods_token(server, namespace, kubelet, start_operator):
    operator = start_operator(status_interval=1)
    await operator.until_leading()
    uid = (await KubernetesCluster(server).create(job(namespace)))["metadata"]["uid"]
    (pod,) = await kubelet.until_pods("digits", lambda pods: len(pods) == 1)
    await kubelet.set(pod, "Running")
    # Just what the worker has: the CA from its config, a token of its own, and the Service's name.
    secret = await server.request("GET", f"/api/v1/namespaces/{namespace}/secrets/trainwright-reports-ca", "secrets")
    context = ssl.create_default_context(cadata=base64.b64decode(secret["data"]["tls.crt"]).decode())
    token = await kubelet.token(pod, report_audience(namespace, "digits", uid))
    url = f"https://127.0.0.1:{operator.reports_port}/v1/namespaces/{namespace}/jobs/digits/reports"
    report = WorkerReport(
        uid=uid, attempt=1, launch="a", sequence=1, phase=WorkerPhase.TRAINING, step=7, total_steps=10, loss=0.25
    )

    async def post(token):
        async with aiohttp.ClientSession() as session:
            answer = await session.post(
                url,
                json=report.to_wire(),
                headers={"Authorization": f"Bearer {token}"},
                ssl=context,
                server_hostname=f"trainwright-reports.{namespace}.svc",
            )
            return answer.status

    assert await post(await kubelet.token(pod, "another-audience")) == 401
    assert await post(token) == 204
    status = await kubelet.until_status("digits", lambda s: s.get("progress", {}).get("step") == 7)
    assert status["metrics"]["loss"] == 0.25
    assert operator.metric('trainwright_reports_total{result="204"}') == 1
    assert operator.metric(f'trainwright_job_step{{job="digits",namespace="{namespace}"}}') == 7


async def test_without_namespaces_it_watches_all(server, namespace, kubelet, start_operator):
    operator = start_operator(namespaces="")
    await operator.until_leading()
    await KubernetesCluster(server).create(job(namespace))
    await kubelet.until_pods("digits", lambda pods: len(pods) == 1)
    operator.process.send_signal(signal.SIGTERM)
    assert operator.process.wait(10) == 0


async def test_of_two_releases_that_see_a_job_one_drives_it(server, namespace, kubelet, start_operator):
    first, second = (start_operator(lease_name=name) for name in ("first", "second"))
    for operator in (first, second):
        await operator.until_leading()
    cluster = KubernetesCluster(server)
    for number in range(8):
        await cluster.create(job(namespace, f"job-{number}", workers=2))
    for number in range(8):
        pods = await kubelet.until_pods(f"job-{number}", lambda pods: len(pods) == 2)
        for pod in pods:
            await kubelet.set(pod, "Running")
        await kubelet.until_status(f"job-{number}", lambda status: status.get("workers", {}).get("ready") == 2)
    owners = {(await kubelet.job(f"job-{number}"))["status"]["operator"] for number in range(8)}
    assert owners <= {f"{namespace}/first", f"{namespace}/second"}
    for kind in ("configmaps", "services"):
        listed = await server.request("GET", f"/api/v1/namespaces/{namespace}/{kind}", kind)
        made = [item for item in listed["items"] if item["metadata"].get("labels", {}).get("trainwright.dev/job-name")]
        assert len(made) == 8, f"{kind}: one for each job"
    stands_by = [line for line in second.lines() + first.lines() if "another release" in line["event"]]
    assert stands_by
