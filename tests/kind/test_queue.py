"""Jobs that wait in a queue of Kueue, the real one, for a quota that only one of them can have at a time."""

from collections.abc import Iterator

import jobs
import kube
import pytest

pytestmark = pytest.mark.timeout(900, func_only=True)

QUEUE = """
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata: {{name: {namespace}}}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata: {{name: {namespace}}}
spec:
  namespaceSelector: {{}}
  preemption: {{withinClusterQueue: LowerPriority}}
  resourceGroups:
  - coveredResources: [cpu, memory]
    flavors:
    - name: {namespace}
      resources:
      - {{name: cpu, nominalQuota: 100m}}
      - {{name: memory, nominalQuota: 100Gi}}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: LocalQueue
metadata: {{name: team-a, namespace: {namespace}}}
spec: {{clusterQueue: {namespace}}}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: WorkloadPriorityClass
metadata: {{name: {namespace}-urgent}}
value: 1000
"""


@pytest.fixture(scope="module")
def kueue(operator, visibly) -> Iterator[None]:
    """Kueue, installed for these tests; a test that takes a node away might take Kueue away, and has to wait."""
    with kube.in_use(alone=False):
        visibly("kueue", "up")
        yield
        visibly("kueue", "down")


@pytest.fixture
def queue(kueue, namespace) -> Iterator[str]:
    """A queue with a quota of a tenth of a CPU in a namespace of its own; the value is the namespace."""
    kube.kubectl("label", "namespace", namespace, "kueue-managed=true")
    kube.wait_until(
        lambda: kube.apply(QUEUE.format(namespace=namespace)), timeout=60, describe=lambda: "Kueue's webhook"
    )
    yield namespace
    kube.kubectl("delete", "tj", "--all", f"--namespace={namespace}", "--timeout=120s")
    kube.kubectl("delete", "workloadpriorityclasses.kueue.x-k8s.io", f"{namespace}-urgent", "--wait=false")


def submit(queue: str, name: str, steps: int = 100_000, **scheduling: str) -> None:
    """Apply a job of two workers, who ask for the whole quota."""
    workers = {"count": 2, "resources": {"requests": {"cpu": "50m", "memory": "300Mi"}}}
    scheduling = {"queue": "team-a", **scheduling}
    kube.apply(jobs.manifest(name, workers=workers, training={"steps": steps}, scheduling=scheduling), queue)


def finish(queue: str, name: str) -> None:
    """Delete the job and see to it that nothing of it stays, whatever Kueue holds on to."""
    kube.kubectl("delete", "tj", name, f"--namespace={queue}", "--timeout=60s")
    kube.wait_until(lambda: not jobs.pods(queue, name), timeout=120, describe=lambda: str(jobs.pods(queue, name)))


def waits_at(place: str):
    return lambda now: (
        now.get("phase") == "Queued" and now["message"].startswith(f"waiting in queue team-a at place {place};")
    )


def test_jobs_wait_for_their_turn_and_hand_it_on_while_suspended(queue):
    submit(queue, "first")
    before = jobs.wait_for(queue, "first", jobs.running_at(30), timeout=180)
    submit(queue, "second", steps=60)
    jobs.wait_for(queue, "second", waits_at("1 of 1"))
    submit(queue, "third")
    kube.apply(jobs.manifest("lost", scheduling={"queue": "no-such"}), queue)
    third = jobs.wait_for(queue, "third", waits_at("2 of 2"))
    assert third["workers"]["ready"] == 0
    assert not any(pod["spec"].get("nodeName") for pod in jobs.pods(queue, "third"))
    lost = jobs.wait_for(queue, "lost", lambda now: now.get("reason") == "QueueNotFound")
    assert "Kueue knows no queue no-such in this namespace: correct spec.scheduling.queue" in lost["message"]
    finish(queue, "third")  # one that has not had its turn leaves nothing either

    suspend = ["patch", "tj", "first", f"--namespace={queue}", "--type=merge"]
    kube.kubectl(*suspend, '--patch={"spec":{"suspend":true}}')
    jobs.wait_for(queue, "second", lambda now: now.get("phase") in ("Pending", "Starting", "Running"), timeout=180)
    kube.kubectl(*suspend, '--patch={"spec":{"suspend":false}}')
    second = jobs.wait_for(queue, "second", jobs.succeeded, timeout=240)
    assert second["goodput"]["queued"] > 0
    assert (second["attempt"], second["restarts"]) == (1, 0)
    condition = next(condition for condition in second["conditions"] if condition["type"] == "Queued")
    assert condition["status"] == "False"

    after = jobs.wait_for(queue, "first", jobs.running_at(before["progress"]["step"]), timeout=240)
    assert (after["progress"]["replayedSteps"], after["restarts"]) == (0, 0)
    submit(queue, "last", steps=60)
    jobs.wait_for(queue, "last", waits_at("1 of 1"))
    finish(queue, "first")
    jobs.wait_for(queue, "last", jobs.succeeded, timeout=240)


def test_a_lost_worker_is_replaced_within_its_group_and_a_more_urgent_job_sends_all_of_it_back(queue):
    submit(queue, "patient")
    jobs.wait_for(queue, "patient", jobs.running_at(30), timeout=180)
    kube.kubectl("delete", "pod", "patient-1-1", f"--namespace={queue}", "--wait=false")
    before = jobs.wait_for(
        queue, "patient", lambda now: now.get("phase") == "Running" and now.get("restarts"), timeout=180
    )
    assert (before["attempt"], before["restarts"]) == (2, 1)
    workloads = kube.kubectl_json("get", "workloads.kueue.x-k8s.io", f"--namespace={queue}")["items"]
    assert len(workloads) == 1, "the replacement had to wait for a turn of its own"

    submit(queue, "urgent", steps=60, priority=f"{queue}-urgent")
    pushed = jobs.wait_for(queue, "patient", lambda now: now.get("phase") == "Queued", timeout=180)
    assert pushed["failure"]["category"] == "Preempted"
    assert pushed["restartsWithoutProgress"] == 0
    jobs.wait_for(queue, "urgent", jobs.succeeded, timeout=240)
    after = jobs.wait_for(queue, "patient", jobs.running_at(before["progress"]["step"]), timeout=240)
    assert after["progress"]["resumedFromStep"] > 0
