"""Killed after any single write and started afresh, the loop reaches the same end as if nothing had happened."""

import asyncio

import pytest
import virtual_time
from manifests import job
from memory_cluster import MemoryCluster
from world import World

from trainwright.api.exit_codes import ExitCode

LIMIT = 600.0
"""Virtual seconds within which each story must end."""


def succeed(_index, _attempt):
    return 0


def crash_once(index, attempt):
    return ExitCode.INFRASTRUCTURE if (index, attempt) == (1, 1) else 0


def user_error(index, _attempt):
    return ExitCode.USER_ERROR if index == 0 else 0


def always_broken(_index, _attempt):
    return ExitCode.INFRASTRUCTURE


def endless(_index, _attempt):
    return None


STORIES = {
    "succeeds": (succeed, {}, "Succeeded"),
    "restarts": (crash_once, {"restart": {"limit": 3}}, "Succeeded"),
    "fails at once": (user_error, {}, "Failed"),
    "spends its budget": (endless, {"budget": {"workerHours": 0.005}}, "Failed"),
    "starts late": (succeed, {"startDeadlineSeconds": 5}, "Succeeded"),
    "gives up": (always_broken, {"restart": {"limit": 2}}, "Failed"),
}


async def _live(cluster, fate, die_after=None):
    """Let one life of the controller go on until the job has ended or the controller is dead; nodes go on meanwhile."""
    cluster.die_after = die_after
    world = World(cluster)
    loop = asyncio.get_running_loop()
    end = loop.time() + LIMIT
    while not cluster.dead:
        assert loop.time() < end, (cluster.job().get("status"), cluster.writes)
        await asyncio.sleep(1)
        cluster.step(fate)
        status = cluster.job().get("status") or {}
        if status.get("phase") in ("Succeeded", "Failed") and not any(_alive(pod) for pod in cluster.pods()):
            break
    await asyncio.sleep(0 if cluster.dead else 120)
    await world.die()
    cluster.die_after = None


def _alive(pod):
    return pod["status"]["phase"] in ("Pending", "Running")


def _tell(story, die_after=None):
    fate, fields, _ = STORIES[story]

    async def main():
        cluster = MemoryCluster()
        if story == "starts late":
            cluster.waits = lambda index, attempt: (index, attempt) == (1, 1)
        cluster.submit(job("team", workers=2, **fields))
        await _live(cluster, fate, die_after)
        if die_after is not None:
            await _live(cluster, fate)
        return cluster

    return virtual_time.run(main())


def _outcome(cluster):
    status = cluster.job()["status"]
    live = sorted(pod["metadata"]["name"] for pod in cluster.pods() if _alive(pod))
    return status["phase"], status["attempt"], status["restarts"], status["reason"], live


@pytest.mark.parametrize("story", STORIES)
def test_the_end_does_not_depend_on_where_it_was_killed(story):
    undisturbed = _tell(story)
    expected = _outcome(undisturbed)
    assert expected[0] == STORIES[story][2]
    for writes in range(1, len(undisturbed.writes) + 1):
        killed = _tell(story, die_after=writes)
        assert _outcome(killed) == expected, f"killed after write {writes}: {killed.writes}"


@pytest.mark.parametrize("story", STORIES)
def test_no_pod_of_one_attempt_is_ever_made_twice(story):
    undisturbed = _tell(story)
    for writes in range(1, len(undisturbed.writes) + 1):
        made = [name for verb, kind, name in _tell(story, die_after=writes).writes if (verb, kind) == ("create", "Pod")]
        assert len(made) == len(set(made))
