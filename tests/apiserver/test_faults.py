"""The whole operator before an API server that fails: no fault is noticed in what comes of a job, but in how long it takes."""

import asyncio
import random
import time

import pytest
from kubelet import FakeKubelet
from manifests import job
from proxy import LOST_AFTER, LOST_BEFORE, FaultyProxy, Weather

from trainwright.cluster.kubernetes import KubernetesCluster

KINDS = {
    "conflicts": (409,),
    "too many requests": (429,),
    "server errors": (500, 503),
    "lost requests": (LOST_BEFORE,),
    "lost answers": (LOST_AFTER,),
}
PATIENCE = 240
"""Seconds. Passes that fail are retried after up to a minute, and one that needs several requests may fail several times in a row."""

pytestmark = pytest.mark.timeout(900, func_only=True)


@pytest.fixture
def kubelet(server, namespace):
    return FakeKubelet(server, namespace)


@pytest.fixture
async def proxy(api_server):
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test failed
    async with FaultyProxy(api_server.url, seed) as proxy:
        yield proxy


@pytest.fixture
def operator(api_server, proxy, tmp_path, start_operator):
    return start_operator(through=api_server.behind(proxy.url, tmp_path), resync_interval=5)


async def _until(condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.05)


async def live(server, namespace, kubelet):
    """Have a job of two workers lose one of them, and come to its end."""
    await KubernetesCluster(server).create(job(namespace, workers=2, restart={"backoffSeconds": 0}))
    first = await kubelet.until_pods("digits", lambda pods: len(pods) == 2, PATIENCE)
    for pod in first:
        await kubelet.set(pod, "Running")
    await kubelet.until_status("digits", lambda status: status.get("workers", {}).get("ready") == 2, PATIENCE)
    await kubelet.set(first[1], "Failed", exit_code=69)

    def replaced(pods):
        return any(pod["metadata"]["name"] == "digits-1-2" for pod in pods)

    second = await kubelet.until_pods("digits", replaced, PATIENCE)
    replacement = next(pod for pod in second if pod["metadata"]["name"] == "digits-1-2")
    await kubelet.set(replacement, "Running")
    await kubelet.until_status("digits", lambda status: status.get("workers", {}).get("ready") == 2, PATIENCE)
    for pod in (first[0], replacement):
        await kubelet.set(pod, "Succeeded", exit_code=0)
    status = await kubelet.until_status("digits", lambda status: status.get("phase") == "Succeeded", PATIENCE)
    assert (status["attempt"], status["restarts"]) == (2, 1)


def unharmed(operator, proxy):
    assert operator.process.poll() is None
    assert operator.get("/healthz")[0] == 200
    assert set(proxy.tally.created.values()) == {1}, proxy.tally.created
    assert len(proxy.tally.created) == 3, proxy.tally.created


@pytest.mark.parametrize("kind", KINDS)
async def test_every_fifth_request_fails(server, namespace, kubelet, operator, proxy, kind):
    proxy.weather = Weather(share=1 / 5, kinds=KINDS[kind])
    await live(server, namespace, kubelet)
    unharmed(operator, proxy)
    assert proxy.tally.faults.total() > 0
    # Failing costs retries, never a hot loop.
    assert proxy.tally.requests < 400, proxy.tally


async def test_everything_fails_and_watches_are_cut_every_second(server, namespace, kubelet, operator, proxy):
    proxy.weather = Weather(share=1 / 5, watch_seconds=1)
    await live(server, namespace, kubelet)
    unharmed(operator, proxy)
    await _until(lambda: proxy.tally.faults["watch cut"] > 0)


async def test_every_watch_has_expired_and_resyncs_tell(server, namespace, kubelet, operator, proxy):
    proxy.weather = Weather(expired=True)
    await live(server, namespace, kubelet)
    unharmed(operator, proxy)
    begun = proxy.tally.watches
    assert begun > 0
    proxy.weather = Weather()
    await _until(lambda: proxy.tally.watches > begun)
