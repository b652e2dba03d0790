"""The loop on a cluster in memory: what it does when the cluster lags, refuses or fails."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest
import virtual_time
from manifests import job
from memory_cluster import MemoryCluster
from world import World

from trainwright.api.names import KIND, LABEL_ATTEMPT, LABEL_JOB, LABEL_WORKER
from trainwright.api.status import rfc3339
from trainwright.api.worker import WorkerPhase, WorkerReport
from trainwright.cluster.port import ClusterError, JobKey, RejectedError
from trainwright.controller.tuning import Tuning

KEY = JobKey("team", "digits")


def scenario(function):
    """Run a test in virtual time."""

    def test():
        virtual_time.run(function())

    test.__name__ = function.__name__
    return test


def succeed(_index, _attempt):
    return 0


@scenario
async def test_brings_a_job_to_its_end():
    cluster = MemoryCluster()
    async with World(cluster) as world:
        cluster.submit(job("team", workers=2))
        await world.until(lambda: len(cluster.pods()) == 2)
        cluster.step(succeed)
        await world.until(lambda: world.status()["workers"]["ready"] == 2)
        cluster.step(succeed)
        await world.until_phase("Succeeded")
        await asyncio.sleep(60)
        settled = len(cluster.writes)
        await asyncio.sleep(3600)
        # Resyncs over an hour find nothing to do.
        assert len(cluster.writes) == settled
        assert settled <= 2 + 8, cluster.writes


@scenario
async def test_an_echo_that_never_comes_does_not_stop_the_loop():
    cluster = MemoryCluster()
    cluster.submit(job("team", workers=2))
    cluster.lagging = True
    async with World(cluster) as world:
        await world.until(lambda: len(cluster.pods()) == 2)
        await asyncio.sleep(30)
        assert world.count("create", "Pod") == 2
        cluster.step(succeed)
        cluster.deliver()
        cluster.step(succeed)
        cluster.deliver()
        await world.until_phase("Succeeded")


@scenario
async def test_news_of_a_wide_job_is_gathered_since_every_pass_looks_at_all_of_it():
    cluster = MemoryCluster()
    async with World(cluster) as world:
        cluster.submit(job("team", workers=200, training={"epochs": 1, "globalBatchSize": 400}))
        await world.until(lambda: len(cluster.pods()) == 200)
        await asyncio.sleep(1)
        passes = world.controller.metrics.reconcile_seconds
        before = count(passes)
        for pod in cluster.pods():
            cluster.edit({**pod, "status": {**pod["status"], "reason": "Scheduled"}})
            await asyncio.sleep(0.005)
        await asyncio.sleep(1)
        assert 1 <= count(passes) - before <= 25


def count(histogram):
    return next(
        sample.value for metric in histogram.collect() for sample in metric.samples if sample.name.endswith("_count")
    )


@scenario
async def test_a_missed_deletion_is_found_before_anything_is_counted():
    cluster = MemoryCluster()
    async with World(cluster) as world:
        cluster.submit(job("team", workers=1))
        await world.until(lambda: len(cluster.pods()) == 1)
        cluster.step(succeed)
        await world.until(lambda: world.status()["workers"]["ready"] == 1)
        # The watch says the pod failed; by then it is another one. Acting on the old picture would count a restart twice.
        cluster.lagging = True
        cluster.remove(cluster.pods()[0])
        await asyncio.sleep(400)  # the resync finds that it is gone
        await world.until(lambda: len(cluster.pods()) == 1 and cluster.pods()[0]["status"]["phase"] == "Pending")
        assert world.status()["attempt"] == 2
        cluster.deliver()
        await asyncio.sleep(30)
        assert world.status()["attempt"] == 2


@scenario
async def test_what_a_watch_missed_before_it_began_anew_is_looked_for_at_once():
    cluster = MemoryCluster()
    async with World(cluster) as world:
        cluster.submit(job("team", workers=1))
        await world.until(lambda: len(cluster.pods()) == 1)
        cluster.step(succeed)
        await world.until(lambda: world.status()["workers"]["ready"] == 1)
        await asyncio.sleep(60)
        cluster.lagging = True
        cluster.remove(cluster.pods()[0])
        await asyncio.sleep(60)
        assert world.status()["attempt"] == 1, "the watch is the only one to know"
        world.controller.relisted()
        await world.until(lambda: world.status()["attempt"] == 2, seconds=5)


@scenario
async def test_a_refusal_is_said_and_retried():
    cluster = MemoryCluster()

    def refuse(manifest):
        if manifest["kind"] == "Pod":
            raise RejectedError("exceeded quota: gpus, requested 8, used 8, limited 8")

    cluster.refuse = refuse
    async with World(cluster) as world:
        cluster.submit(job("team"))
        await world.until(lambda: "exceeded quota" in (cluster.job().get("status") or {}).get("message", ""))
        await asyncio.sleep(600)
        writes = world.count("status")
        await asyncio.sleep(600)
        assert world.count("status") == writes, "the same refusal is said once"
        cluster.refuse = lambda _: None
        await world.until(lambda: len(cluster.pods()) == 1)
        await world.until(lambda: "quota" not in world.status()["message"])


@scenario
async def test_what_is_refused_is_not_tried_at_every_report():
    cluster, tried = MemoryCluster(), []

    def refuse(manifest):
        if manifest["kind"] == "Pod" and manifest["metadata"]["labels"][LABEL_WORKER] == "3":
            tried.append(asyncio.get_running_loop().time())
            raise RejectedError("exceeded quota: gpus, requested 1, used 3, limited 3")

    async def train(world, seconds):
        uid = cluster.job()["metadata"]["uid"]
        for _ in range(seconds // 2):
            step = int(asyncio.get_running_loop().time())
            said = {"attempt": 1, "launch": "a", "sequence": step, "phase": WorkerPhase.TRAINING, "absent": [3]}
            report = WorkerReport(uid=uid, step=step, total_steps=10_000, **said)
            world.controller.store.report(KEY, 0, report, datetime.now(UTC) + timedelta(seconds=step))
            await asyncio.sleep(2)

    cluster.refuse = refuse
    async with World(cluster) as world:
        manifest = job("team", workers=4)
        manifest["spec"]["workers"]["minCount"] = 2
        cluster.submit(manifest)
        await world.until(lambda: len(cluster.pods()) == 3)
        cluster.step(lambda _index, _attempt: None)
        await train(world, 300)
        assert "worker 3: the cluster refuses to create it: exceeded quota" in world.status()["message"]
        pauses = [later - earlier for earlier, later in itertools.pairwise(tried)]
        assert len(tried) < 16, "and a status was written all the while"
        assert 29 < pauses[-1] < 66
        assert world.status()["progress"]["step"] > 280
        cluster.refuse = lambda _: None
        await train(world, 70)
        assert len(cluster.pods()) == 4
        assert "quota" not in world.status()["message"]


@scenario
async def test_pods_that_vanish_at_once_are_created_at_a_growing_pace():
    cluster = MemoryCluster()
    async with World(cluster) as world:
        cluster.submit(job("team"))
        for _ in range(1200):
            for made in cluster.pods():
                cluster.remove(made)
            await asyncio.sleep(0.05)
        assert 5 <= world.count("create", "Pod") <= 12
        await world.until(lambda: len(cluster.pods()) == 1)


@scenario
async def test_what_is_in_the_way_is_waited_for_no_longer_than_it_is_there():
    cluster = MemoryCluster()
    labels = {LABEL_JOB: "digits", LABEL_WORKER: "0", LABEL_ATTEMPT: "1"}
    owner = {"apiVersion": "v1", "kind": KIND, "name": "digits", "uid": "former", "controller": True}
    former = {"namespace": "team", "name": "digits-0-1", "labels": labels, "ownerReferences": [owner]}
    former = cluster.objects.add(
        {"apiVersion": "v1", "kind": "Pod", "metadata": former, "spec": {}, "status": {"phase": "Running"}}
    )
    async with World(cluster) as world:
        cluster.submit(job("team"))
        await asyncio.sleep(300)
        cluster.remove(former)
        await world.until(lambda: len(cluster.pods()) == 1, seconds=1)


@scenario
async def test_why_a_kubelet_does_not_start_a_pod_is_asked_for_seldom_and_told_once():
    cluster = MemoryCluster()
    cluster.waits = lambda _index, _attempt: True
    async with World(cluster) as world:
        cluster.submit(job("team"))
        await world.until(lambda: len(cluster.pods()) == 1)
        (stuck,) = cluster.pods()
        cluster.warnings[stuck["metadata"]["uid"]] = ("FailedMount", 'secret "hub" not found')
        creating = {"name": "worker", "state": {"waiting": {"reason": "ContainerCreating"}}}
        cluster.edit({**stuck, "status": {"phase": "Pending", "containerStatuses": [creating]}})
        await world.until(lambda: world.status()["reason"] == "FailedMount")
        assert 'secret "hub" not found' in world.status()["message"]
        writes, asked = len(cluster.writes), cluster.inquiries
        await asyncio.sleep(600)
        assert len(cluster.writes) == writes
        assert 600 / 15 - 2 <= cluster.inquiries - asked <= 600 / 15 + 2
        cluster.fail_next = ClusterError("events are not to be had")
        await asyncio.sleep(60)
        assert len(cluster.writes) == writes
        cluster.waits = lambda _index, _attempt: False
        cluster.step(succeed)
        await world.until(lambda: world.status()["reason"] != "FailedMount")


@scenario
async def test_workers_that_never_report_are_started_again_once_another_job_has_shown_that_reports_arrive():
    cluster = MemoryCluster()
    async with World(cluster, reports_url="https://operator:8443") as world:
        cluster.submit(job("team"))
        await world.until(lambda: len(cluster.pods()) == 1)
        running = {"name": "worker", "ready": True, "state": {"running": {"startedAt": rfc3339(world.now())}}}
        (pod,) = cluster.pods()
        cluster.edit({**pod, "status": {"phase": "Running", "containerStatuses": [running]}})
        await world.until(lambda: world.status()["reason"] == "NoReport", seconds=130)
        await asyncio.sleep(600)
        assert world.status()["restarts"] == 0, "perhaps no report arrives"

        witness = cluster.submit(job("team", "witness"))["metadata"]["uid"]
        said = WorkerReport(uid=witness, attempt=1, launch="a", sequence=1, phase=WorkerPhase.PREPARING)
        assert world.store.report(JobKey("team", "witness"), 0, said, world.now())
        await world.until(lambda: world.status()["restarts"] == 1, seconds=600)
        assert "does not seem to start Trainwright's worker" in world.status()["failure"]["message"]


@scenario
async def test_a_pod_of_a_former_job_is_waited_for():
    cluster = MemoryCluster()
    foreign = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "team", "name": "digits-0-1"}}
    foreign = cluster.objects.add({**foreign, "status": {"phase": "Running"}})
    async with World(cluster) as world:
        cluster.submit(job("team"))
        await world.until(
            lambda: "does not belong to this job" in (cluster.job().get("status") or {}).get("message", "")
        )
        cluster.objects.remove(foreign)
        await world.until(lambda: [p["metadata"]["name"] for p in cluster.pods()] == ["digits-0-1"])


@scenario
async def test_a_pod_of_a_former_job_on_a_dead_node_is_not():
    cluster = MemoryCluster()
    labels = {LABEL_JOB: "digits", LABEL_WORKER: "0", LABEL_ATTEMPT: "1"}
    owner = {"apiVersion": "v1", "kind": KIND, "name": "digits", "uid": "former", "controller": True}
    gone_at = rfc3339(datetime.now(UTC) + timedelta(seconds=30))
    stuck = {"namespace": "team", "name": "digits-0-1", "labels": labels, "ownerReferences": [owner]}
    foreign = {"apiVersion": "v1", "kind": "Pod", "metadata": {**stuck, "deletionTimestamp": gone_at}, "spec": {}}
    cluster.objects.add({**foreign, "status": {"phase": "Running"}})
    async with World(cluster) as world:
        cluster.submit(job("team"))
        await world.until(
            lambda: "waiting for it to be deleted" in (cluster.job().get("status") or {}).get("message", "")
        )
        await world.until(lambda: {p["metadata"]["name"] for p in cluster.pods()} == {"digits-0-1", "digits-0-2"})
        assert world.status()["restarts"] == 0


@scenario
async def test_a_conflict_is_retried_with_what_came_between():
    cluster = MemoryCluster()
    cluster.submit(job("team"))
    cluster.lagging = True
    async with World(cluster) as world:
        await world.controller.synced.wait()
        edited = cluster.job()
        edited["metadata"]["labels"] = {"edited": "meanwhile"}
        cluster.edit(edited)
        await asyncio.sleep(1)
        assert world.count("status") == 0
        cluster.lagging = False
        cluster.deliver()
        await world.until(lambda: len(cluster.pods()) == 1)
        assert cluster.job()["metadata"]["labels"] == {"edited": "meanwhile"}


@scenario
async def test_waits_for_a_cluster_that_does_not_answer_yet():
    cluster = MemoryCluster()
    cluster.fail_next = ClusterError("connection refused")
    cluster.submit(job("team"))
    async with World(cluster) as world:
        assert not world.controller.synced.is_set()
        await world.until(lambda: len(cluster.pods()) == 1)


@scenario
async def test_reports_make_few_status_writes_and_the_newest_data_wins():
    cluster = MemoryCluster()
    async with World(cluster, Tuning(status_interval=10)) as world:
        cluster.submit(job("team"))
        await world.until(lambda: len(cluster.pods()) == 1)
        cluster.step(succeed)
        await world.until(lambda: world.status()["workers"]["ready"] == 1)
        uid = cluster.job()["metadata"]["uid"]
        before = world.count("status")
        for second in range(100):
            await asyncio.sleep(1)
            report = WorkerReport(
                uid=uid,
                attempt=1,
                launch="a",
                sequence=second,
                phase=WorkerPhase.TRAINING,
                step=second,
                total_steps=1000,
            )
            world.controller.store.report(KEY, 0, report, datetime.now(UTC) + timedelta(seconds=second))
        await asyncio.sleep(11)
        assert world.status()["progress"]["step"] == 99
        assert world.count("status") - before <= 13


@scenario
async def test_a_deleted_job_is_forgotten():
    cluster = MemoryCluster()
    async with World(cluster) as world:
        cluster.submit(job("team"))
        await world.until(lambda: len(cluster.pods()) == 1)
        await cluster.delete_job(KEY, cluster.job()["metadata"]["uid"])
        await asyncio.sleep(700)
        assert world.controller.store.job_keys() == []


@pytest.mark.parametrize("workers", [1, 4])
def test_events_and_children_name_their_job(workers):
    async def main():
        cluster = MemoryCluster()
        async with World(cluster) as world:
            cluster.submit(job("team", workers=workers))
            for _ in range(2):
                await world.until(lambda: len(cluster.pods()) == workers)
                await asyncio.sleep(2)
                cluster.step(succeed)
            await world.until_phase("Succeeded")
            events = cluster.objects.select("Event", {})
            uid = cluster.job()["metadata"]["uid"]
            assert {event["involvedObject"]["uid"] for event in events} == {uid}
            assert {event["involvedObject"]["kind"] for event in events} == {KIND}

    virtual_time.run(main())
