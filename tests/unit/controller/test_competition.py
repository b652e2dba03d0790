"""Jobs that compete for too few places: with start deadlines, none waits for another for ever."""

import asyncio
import random

import pytest
import virtual_time
from manifests import job
from memory_cluster import MemoryCluster, _container
from world import World

from trainwright.api.names import LABEL_JOB
from trainwright.cluster.local.objects import now_text

NO_ROOM = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: no room"}


class Places:
    """A scheduler with so many places and no sense for gangs, and workers that end once all of them ran for a while."""

    def __init__(self, cluster, places, workers, seed):
        self.cluster = cluster
        self.places = places
        self.workers = workers
        self.random = random.Random(seed)
        self.trained = {}

    def step(self):
        pods = self.cluster.pods()
        for gone in [pod for pod in pods if "deletionTimestamp" in pod["metadata"]]:
            self.cluster.remove(gone)
        pods = self.cluster.pods()
        running = [pod for pod in pods if pod["status"]["phase"] == "Running"]
        waiting = [pod for pod in pods if pod["status"]["phase"] == "Pending"]
        self.random.shuffle(waiting)
        free = self.places - len(running)
        for pod in waiting[:free]:
            placed = {"phase": "Running", "containerStatuses": [_container({"running": {}})]}
            self.cluster.edit({**pod, "spec": {**pod["spec"], "nodeName": "node"}, "status": placed})
        for pod in waiting[free:]:
            if not pod["status"].get("conditions"):
                self.cluster.edit({**pod, "status": {"phase": "Pending", "conditions": [NO_ROOM]}})
        self.train(running)

    def train(self, running):
        for name in sorted({pod["metadata"]["labels"][LABEL_JOB] for pod in running}):
            crew = [pod for pod in running if pod["metadata"]["labels"][LABEL_JOB] == name]
            if len(crew) < self.workers:
                continue
            self.trained[name] = self.trained.get(name, 0) + 1
            if self.trained[name] >= 30:
                said = '{"exitCode": 0}'
                ended = {"exitCode": 0, "finishedAt": now_text(), "reason": "Completed", "message": said}
                for pod in crew:
                    status = {"phase": "Succeeded", "containerStatuses": [_container({"terminated": ended})]}
                    self.cluster.edit({**pod, "status": status})


def compete(seed, jobs=2, workers=4, places=4, seconds=7200, **spec):
    """Return the phases of jobs that all start at once, after so many virtual seconds at most."""

    async def main():
        cluster = MemoryCluster()
        nodes = Places(cluster, places, workers, seed)
        names = [f"job-{number}" for number in range(jobs)]
        async with World(cluster):
            for name in names:
                cluster.submit(job("team", name, workers=workers, **spec))
            for _ in range(seconds):
                await asyncio.sleep(1)
                nodes.step()
                phases = [(cluster.job(name).get("status") or {}).get("phase") for name in names]
                if all(phase == "Succeeded" for phase in phases):
                    break
        return phases

    return virtual_time.run(main())


def test_without_a_start_deadline_two_halves_wait_for_ever():
    """What the deadline is for; were this to pass by luck, the tests below would prove nothing."""
    assert any("Succeeded" not in compete(seed, seconds=600) for seed in range(3))


@pytest.mark.parametrize("seed", range(6))
def test_two_jobs_that_need_all_places_both_end(seed):
    assert compete(seed, startDeadlineSeconds=30) == ["Succeeded"] * 2


@pytest.mark.parametrize("seed", range(2))
def test_so_do_five_jobs_that_need_more_than_half(seed):
    assert compete(seed, jobs=5, places=7, startDeadlineSeconds=20) == ["Succeeded"] * 5
