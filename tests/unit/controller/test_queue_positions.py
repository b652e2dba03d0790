"""What the cluster is asked besides its jobs and pods: places in queues, and whether it serves groups of pods."""

import asyncio

import pytest
from manifests import job
from memory_cluster import MemoryCluster
from virtual_time import run
from world import World

from trainwright.build.gang import GROUPS_API, GROUPS_RESOURCE
from trainwright.cluster.port import ClusterError, JobKey, NotFoundError, PendingWorkload
from trainwright.controller.apis import Apis
from trainwright.controller.queue_positions import INTERVAL, QueuePositions
from trainwright.plan.types import QueueEntry, QueuePosition

FIRST, SECOND = JobKey("team", "first"), JobKey("team", "second")


def entry(name, group="x2"):
    return QueueEntry("gpus", f"{name}-{group}" if group else None, f"{name}-0-1")


def waiting(*names):
    return [PendingWorkload(name, place, place + 10) for place, name in enumerate(names, start=1)]


def test_one_question_serves_all_jobs_of_a_queue():
    async def scenario():
        cluster = MemoryCluster()
        cluster.lines["team", "gpus"] = waiting("other", "first-x2", "second-x2")
        queues = QueuePositions(cluster)
        assert await queues.look_up(FIRST, entry("first")) == 0
        assert await queues.look_up(SECOND, entry("second")) == 0
        assert queues.position(FIRST) == QueuePosition(2, 3, 12)
        assert queues.position(SECOND) == QueuePosition(3, 3, 13)
        assert 0 < await queues.look_up(FIRST, entry("first")) <= INTERVAL
        assert cluster.questions == 1

        cluster.lines["team", "gpus"] = waiting("first-x2", "second-x2")
        await asyncio.sleep(INTERVAL)
        assert await queues.look_up(FIRST, entry("first")) == 0
        assert queues.position(FIRST) == QueuePosition(1, 2, 11)
        queues.forget(FIRST)
        assert queues.position(FIRST) is None

    run(scenario())


@pytest.mark.parametrize(("name", "found"), [("pod-first-0-1-a1b2c", True), ("pod-first-0-1-0-a1b2c", False)])
def test_a_single_pod_is_found_by_its_name(name, found):
    async def scenario():
        cluster = MemoryCluster()
        cluster.lines["team", "gpus"] = waiting(name)
        queues = QueuePositions(cluster)
        await queues.look_up(FIRST, entry("first", group=None))
        assert (queues.position(FIRST) is not None) == found

    run(scenario())


def test_a_cluster_that_does_not_tell_places_is_no_failure():
    async def scenario():
        cluster = MemoryCluster()
        cluster.lines["team", "gpus"] = waiting("first-x2")
        queues = QueuePositions(cluster)
        await queues.look_up(FIRST, entry("first"))
        await asyncio.sleep(INTERVAL)
        cluster.fail_next = ClusterError("the server could not find the requested resource")
        assert await queues.look_up(FIRST, entry("first")) == 0
        assert queues.position(FIRST) is None  # what was true then need not be now

    run(scenario())


def test_a_queue_that_is_not_known_is_told_until_it_is():
    async def scenario():
        cluster = MemoryCluster()
        queues = QueuePositions(cluster)
        cluster.fail_next = NotFoundError('localqueue.visibility.kueue.x-k8s.io "gpus" not found')
        assert await queues.look_up(FIRST, entry("first")) == 0
        assert queues.is_queueless(FIRST)
        assert await queues.look_up(FIRST, entry("first")) > 0
        await asyncio.sleep(INTERVAL)
        cluster.lines["team", "gpus"] = waiting("first-x2")
        assert await queues.look_up(FIRST, entry("first")) == 0
        assert not queues.is_queueless(FIRST)

    run(scenario())


def test_what_the_cluster_serves_is_remembered_while_it_does_not_answer():
    async def scenario():
        cluster = MemoryCluster()
        apis = Apis(cluster)
        assert (await apis.look(), apis.groups) == (False, False)
        cluster.served.add((GROUPS_API, GROUPS_RESOURCE))
        assert (await apis.look(), apis.groups) == (True, True)
        cluster.fail_next = ClusterError("no answer")
        assert (await apis.look(), apis.groups) == (False, True)
        cluster.served.clear()
        assert (await apis.look(), apis.groups) == (True, False)

    run(scenario())


def test_a_gang_costs_one_write_more():
    async def scenario():
        cluster = MemoryCluster()
        cluster.served.add((GROUPS_API, GROUPS_RESOURCE))
        async with World(cluster) as world:
            cluster.submit(job("team", workers=2))
            await world.until(lambda: len(cluster.pods()) == 2)
            assert world.count("create", "PodGroup") == 1
            assert all("podGroupName" in pod["spec"]["schedulingGroup"] for pod in cluster.pods())
            cluster.step(lambda *_: 0)
            await world.until(lambda: world.status()["workers"]["ready"] == 2)
            cluster.step(lambda *_: 0)
            await world.until_phase("Succeeded")
            await asyncio.sleep(60)
            assert len(cluster.writes) <= 2 + 9, cluster.writes

    run(scenario())


def test_a_cluster_that_serves_groups_no_more_disturbs_nobody():
    def refuse(manifest):
        if manifest["kind"] == "PodGroup":
            cluster.served.clear()
            raise NotFoundError("the server could not find the requested resource")

    cluster = MemoryCluster()

    async def scenario():
        cluster.served.add((GROUPS_API, GROUPS_RESOURCE))
        cluster.refuse = refuse
        async with World(cluster) as world:
            cluster.submit(job("team", workers=2))
            await world.until(lambda: len(cluster.pods()) == 2)
            assert not any("schedulingGroup" in pod["spec"] for pod in cluster.pods())
            cluster.step(lambda *_: None)
            await world.until(lambda: world.status()["workers"]["ready"] == 2)
            assert world.status()["restarts"] == 0

    run(scenario())


def test_groups_that_a_job_insists_on_and_that_are_not_served_are_said_to_be_missing():
    def refuse(manifest):
        if manifest["kind"] == "PodGroup":
            raise NotFoundError("the server could not find the requested resource")

    async def scenario():
        cluster = MemoryCluster()
        cluster.refuse = refuse
        async with World(cluster) as world:
            insistent = job("team", workers=2)
            insistent["spec"]["scheduling"] = {"gang": "volcano"}
            cluster.submit(insistent)
            await world.until(lambda: (cluster.job().get("status") or {}).get("reason") == "CreationRefused")
            assert "scheduling.volcano.sh/v1beta1 PodGroup" in world.status()["message"]
            assert cluster.pods() == []

    run(scenario())


def test_a_job_in_a_queue_says_how_it_moves_up():
    async def scenario():
        cluster = MemoryCluster()
        cluster.waits = lambda *_: True
        async with World(cluster) as world:
            queued = job("team", workers=2)
            queued["spec"]["scheduling"] = {"queue": "gpus"}
            cluster.submit(queued)
            await world.until(lambda: len(cluster.pods()) == 2)
            group = cluster.pods()[0]["metadata"]["labels"]["kueue.x-k8s.io/pod-group-name"]
            cluster.lines["team", "gpus"] = waiting("other", group)
            gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}
            for pod in cluster.pods():
                cluster.edit({**pod, "status": {"phase": "Pending", "conditions": [gated]}})
            await world.until(lambda: "at place 2 of 2" in world.status().get("message", ""))
            assert world.status()["phase"] == "Queued"
            cluster.lines["team", "gpus"] = waiting(group)
            await world.until(lambda: "at place 1 of 1" in world.status()["message"])

    run(scenario())
