"""Carrying out a plan: how much at once, whose turn it is, and what a failure leaves behind."""

import asyncio
from datetime import UTC, datetime

import pytest

from trainwright.cluster.port import ClusterError, JobKey
from trainwright.controller.apply import Applier
from trainwright.controller.store import Store
from trainwright.metrics import Metrics

SLOTS = 4


class SlowCluster:
    """Creates an object within a few turns of the loop, and remembers the order."""

    def __init__(self):
        self.created = []
        self.broken = set()
        self.busy = self.most = 0

    async def create(self, manifest):
        name = manifest["metadata"]["name"]
        self.busy += 1
        self.most = max(self.most, self.busy)
        for _ in range(5):
            await asyncio.sleep(0)
        self.busy -= 1
        if name in self.broken:
            raise ClusterError(name)
        self.created.append(name)
        return manifest


@pytest.fixture
def cluster():
    return SlowCluster()


@pytest.fixture
def applier(cluster):
    return Applier(cluster, Store(), Metrics(), SLOTS, lambda: datetime(2026, 1, 1, tzinfo=UTC))


def maps(job, count):
    """ConfigMaps: what is asked of the Applier is the same for all kinds."""
    return [{"kind": "ConfigMap", "metadata": {"name": f"{job}-{n}", "namespace": "n"}} for n in range(count)]


async def test_no_more_is_created_at_once_than_allowed(cluster, applier):
    await asyncio.gather(*(applier.create(JobKey("n", job), job, maps(job, 20)) for job in ("a", "b", "c")))
    assert len(cluster.created) == 60
    assert cluster.most == SLOTS


async def test_a_small_job_does_not_wait_for_all_of_a_wide_one(cluster, applier):
    wide = asyncio.create_task(applier.create(JobKey("n", "wide"), "wide", maps("wide", 500)))
    await asyncio.sleep(0)
    await applier.create(JobKey("n", "small"), "small", maps("small", 2))
    assert len(cluster.created) <= 4 * SLOTS
    await wide
    assert len(cluster.created) == 502


async def test_one_failure_leaves_nothing_else_undone(cluster, applier):
    cluster.broken = {"job-1", "job-7"}
    with pytest.raises(ClusterError, match=r"job-[17]"):
        await applier.create(JobKey("n", "job"), "job", maps("job", 20))
    assert len(cluster.created) == 18
