"""Lives of one job of two workers, each told in virtual time from its creation to its end, on a cluster that a test disturbs."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import virtual_time
from manifests import job
from memory_cluster import Fate, MemoryCluster
from world import World

from trainwright.api.exit_codes import ExitCode

LIMIT = 900.0
"""Virtual seconds within which each story must end, two resyncs included."""
SETTLED = 120
"""Virtual seconds after the end, in which whatever is left to do is done."""


@dataclass(frozen=True)
class Story:
    """What happens to a job.

    Attributes:
        end: The phase in which it ends.
        fate: How each worker ends.
        fields: What its spec says besides.
        late: Whether worker 1 finds no place in its first attempt.
        event: What happens to the job or to its pods, called once a second until it returns whether it has happened.
    """

    end: str
    fate: Fate
    fields: dict[str, Any] = field(default_factory=dict)
    late: bool = False
    event: Callable[[MemoryCluster], bool] = lambda _: True


def succeed(_index, _attempt):
    return 0


def crash_once(index, attempt):
    return ExitCode.INFRASTRUCTURE if (index, attempt) == (1, 1) else 0


def lose_the_leader(index, attempt):
    return ExitCode.INFRASTRUCTURE if (index, attempt) == (0, 1) else (None if attempt == 1 else 0)


def user_error(index, _attempt):
    return ExitCode.USER_ERROR if index == 0 else 0


def always_broken(_index, _attempt):
    return ExitCode.INFRASTRUCTURE


def endless(_index, _attempt):
    return None


def run_on_once(_index, attempt):
    return None if attempt == 1 else 0


def suspend_for_a_while(cluster):
    """Suspend the job while it runs, and resume it once no worker is left."""
    present = cluster.job()
    pods = cluster.pods()
    if present["spec"].get("suspend"):
        if not pods and present["status"].get("phase") == "Suspended":
            cluster.edit({**present, "spec": {**present["spec"], "suspend": False}})
            return True
    elif present.get("status", {}).get("workers", {}).get("ready") == 2:
        cluster.edit({**present, "spec": {**present["spec"], "suspend": True}})
    return False


def run_on_twice(_index, attempt):
    return None if attempt <= 2 else 0


def lose_the_second_leader(index, attempt):
    return ExitCode.INFRASTRUCTURE if (index, attempt) == (0, 2) else run_on_twice(index, attempt)


def resize(*sizes):
    """Return an event that gives the job of two workers one size after the other, each once all of the one before run."""
    order = (2, *sizes)

    def event(cluster):
        present = cluster.job()
        workers = present["spec"]["workers"]
        if workers["count"] == order[-1]:
            return True
        counted = present.get("status", {}).get("workers", {})
        if counted.get("ready") == counted.get("desired") == workers["count"]:
            following = order[order.index(workers["count"]) + 1]
            cluster.edit({**present, "spec": {**present["spec"], "workers": {**workers, "count": following}}})
        return False

    return event


STORIES = {
    "succeeds": Story("Succeeded", succeed),
    "restarts": Story("Succeeded", crash_once, {"restart": {"limit": 3}}),
    "loses its leader": Story("Succeeded", lose_the_leader, {"restart": {"limit": 3}}),
    "fails at once": Story("Failed", user_error),
    "spends its budget": Story("Failed", endless, {"budget": {"workerHours": 0.005}}),
    "starts late": Story("Succeeded", succeed, {"startDeadlineSeconds": 5}, late=True),
    "gives up": Story("Failed", always_broken, {"restart": {"limit": 1}}),
    "misses its deadline": Story("Failed", endless, {"activeDeadlineSeconds": 20}),
    "is suspended and resumed": Story("Succeeded", run_on_once, event=suspend_for_a_while),
    "gets more workers and then fewer": Story("Succeeded", run_on_twice, event=resize(3, 1)),
    "loses its leader once it has more": Story(
        "Succeeded", lose_the_second_leader, {"restart": {"limit": 3}}, event=resize(3)
    ),
}


def tell(story: Story, cluster: MemoryCluster, die_after: int | None = None) -> MemoryCluster:
    """Tell the story on this cluster; with `die_after`, the operator dies after so many writes and another one follows."""

    async def main() -> None:
        if story.late:
            cluster.waits = lambda index, attempt: (index, attempt) == (1, 1)
        cluster.submit(job("team", workers=2, **story.fields))
        happened = await _live(cluster, story, die_after, happened=False)
        if die_after is not None:
            await _live(cluster, story, None, happened=happened)

    virtual_time.run(main())
    return cluster


async def _live(cluster: MemoryCluster, story: Story, die_after: int | None, *, happened: bool) -> bool:
    """Let one life of the controller go on until the job has ended or the controller is dead; nodes go on meanwhile."""
    cluster.die_after = die_after
    world = World(cluster)
    loop = asyncio.get_running_loop()
    end = loop.time() + LIMIT
    while not cluster.dead:
        assert loop.time() < end, (cluster.job().get("status"), cluster.writes)
        await asyncio.sleep(1)
        happened = happened or story.event(cluster)
        cluster.step(story.fate)
        status = cluster.job().get("status") or {}
        if status.get("phase") in ("Succeeded", "Failed") and not any(map(is_alive, cluster.pods())):
            break
    await asyncio.sleep(0 if cluster.dead else SETTLED)
    await world.die()
    cluster.die_after = None
    return happened


def is_alive(pod: dict[str, Any]) -> bool:
    """Return whether the pod's processes run or may come to run."""
    return pod["status"]["phase"] in ("Pending", "Running")


def outcome(cluster: MemoryCluster) -> tuple[Any, ...]:
    """Return what a story amounts to in the end."""
    status = cluster.job()["status"]
    live = sorted(pod["metadata"]["name"] for pod in cluster.pods() if is_alive(pod))
    return status["phase"], status["attempt"], status["restarts"], status["reason"], live
