"""The whole operator process on a real API server: kopf, queue, plan, writes, probes."""

import asyncio
import re
import signal
import time

import pytest
from kubelet import FakeKubelet
from manifests import job

from trainwright.cluster.kubernetes import KubernetesCluster


@pytest.fixture
def kubelet(server, namespace):
    return FakeKubelet(server, namespace)


async def _until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.05)


async def _leading(operator):
    try:
        await _until(lambda: operator.metric("trainwright_leading") == 1 or operator.process.poll() is not None)
        assert operator.process.poll() is None
    except AssertionError:
        raise AssertionError(operator.log.read_text()[-4000:]) from None


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
    await _leading(operator)
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
