"""Two jobs that do not fit beside each other: with Kubernetes' own gang scheduling, and without any.

Each asks for three of the four devices that the nodes offer to the test.
"""

import jobs
import kube
import pytest

pytestmark = pytest.mark.timeout(900, func_only=True)


@pytest.fixture
def three(offer):
    """Return a function that makes a job of three workers with a device each."""
    resources = {"requests": {"cpu": "50m", "memory": "300Mi"}, "limits": {offer(2, 2): 1}}

    def make(name: str, gang: str = "auto", steps: int = 400, **spec):
        return jobs.manifest(
            name,
            workers={"count": 3, "resources": resources},
            training={"steps": steps, "globalBatchSize": 48},
            scheduling={"gang": gang},
            **spec,
        )

    return make


def placed(namespace: str, name: str) -> list[str]:
    """Return the names of the job's pods that hold a place."""
    return [
        pod["metadata"]["name"]
        for pod in jobs.pods(namespace, name)
        if pod["spec"].get("nodeName") and pod["status"]["phase"] in ("Pending", "Running")
    ]


def test_without_gangs_half_started_jobs_give_back_what_they_hold(namespace, three):
    """Neither waits for the other for ever: one trains, then the other."""
    for name in ("one", "two"):
        kube.apply(three(name, gang="none", steps=1_000_000, startDeadlineSeconds=20), namespace)

    def now() -> dict[str, jobs.Manifest]:
        return {name: jobs.status(namespace, name) for name in ("one", "two")}

    def one_trains_and_the_other_gave_up() -> str:
        statuses = now()
        first = next((name for name, status in statuses.items() if jobs.running_at(1)(status)), "")
        others = [status for name, status in statuses.items() if name != first]
        return first if any(status.get("startsGivenUp") for status in others) else ""

    first = kube.wait_until(one_trains_and_the_other_gave_up, timeout=300, describe=now)
    kube.kubectl("delete", "tj", first, f"--namespace={namespace}", "--timeout=60s")
    (second,) = {"one", "two"} - {first}
    after = jobs.wait_for(namespace, second, jobs.running_at(1), timeout=300)
    assert after["attempt"] > 1
    assert after["restarts"] == 0


def test_of_two_jobs_one_waits_and_holds_nothing(namespace, three, offer):
    for name in ("one", "two"):
        kube.apply(three(name), namespace)
    kube.wait_until(
        lambda: sorted(len(placed(namespace, name)) for name in ("one", "two")) == [0, 3],
        timeout=120,
        describe=lambda: str([placed(namespace, name) for name in ("one", "two")]),
    )
    first, second = sorted(("one", "two"), key=lambda name: -len(placed(namespace, name)))
    waiting = jobs.wait_for(
        namespace, second, lambda now: now.get("phase") == "Queued" and offer(2, 2) in now["message"]
    )
    assert "until all 3 workers can be placed at once" in waiting["message"]
    condition = next(condition for condition in waiting["conditions"] if condition["type"] == "Queued")
    assert (condition["status"], condition["reason"]) == ("True", "WaitingForAllPlaces")

    def first_is_done() -> bool:
        # Four devices are enough for three of its own and the last of the other's, whose workers end one by one.
        assert not placed(namespace, second) or len(placed(namespace, first)) < 3
        return jobs.succeeded(jobs.status(namespace, first))

    kube.wait_until(first_is_done, timeout=300, describe=lambda: str(jobs.status(namespace, first)))
    final = jobs.wait_for(namespace, second, jobs.succeeded, timeout=300)
    assert (final["attempt"], final["restarts"], final["startsGivenUp"]) == (1, 0, 0)
    assert final["goodput"]["queued"] > 0
    groups = kube.kubectl_json("get", "podgroups.scheduling.k8s.io", f"--namespace={namespace}")["items"]
    assert [group["spec"]["schedulingPolicy"]["gang"]["minCount"] for group in groups] == [3, 3]


def test_a_worker_of_a_gang_is_replaced_alone_and_the_job_leaves_nothing(namespace, three):
    kube.apply(three("lost", steps=1_000_000), namespace)
    jobs.wait_for(namespace, "lost", jobs.running_at(20), timeout=180)
    kube.kubectl("delete", "pod", f"--namespace={namespace}", "lost-1-1", "--grace-period=0", "--force")
    after = jobs.wait_for(
        namespace, "lost", lambda now: now.get("phase") == "Running" and now.get("restarts") == 1, timeout=180
    )
    assert after["attempt"] == 2
    assert sorted(placed(namespace, "lost")) == ["lost-0-1", "lost-1-2", "lost-2-1"]

    kube.kubectl("delete", "tj", "lost", f"--namespace={namespace}", "--timeout=60s")

    def left() -> str:
        return kube.kubectl("get", "pods,podgroups.scheduling.k8s.io", f"--namespace={namespace}", "--output=name")

    kube.wait_until(lambda: not left().strip(), timeout=150, describe=left)
