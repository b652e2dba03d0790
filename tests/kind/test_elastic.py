"""Fewer workers than asked for, and other numbers of them, with a real scheduler."""

import json

import jobs
import kube
import pytest


def degraded(now):
    return next((c["status"], c["reason"]) for c in now["conditions"] if c["type"] == "Degraded")


def training_with(count):
    return lambda now: now.get("phase") == "Running" and now.get("workers", {}).get("training") == count


def test_a_job_trains_with_those_that_find_room_and_lets_in_who_finds_it_later(operator, namespace, offer):
    device = offer(2, 0)
    resources = {"requests": {"cpu": "50m", "memory": "300Mi"}, "limits": {device: 1}}
    workers = {"count": 3, "minCount": 2, "resources": resources}
    kube.apply(jobs.endless("few", workers=workers, startDeadlineSeconds=20), namespace)
    fewer = jobs.wait_for(namespace, "few", training_with(2), timeout=240)
    # What they do at that moment comes before it: training, evaluating.
    assert f"ing with 2 of 3 workers (worker {fewer['workers']['absent'][0]}: Unschedulable" in fewer["message"]
    assert f"Insufficient {device}" in fewer["message"]
    assert degraded(fewer) == ("True", "FewerWorkers")
    assert fewer["summary"]["workers"] == "2/3"
    assert fewer.get("startsGivenUp", 0) == 0

    offer(3, 0)
    everyone = jobs.wait_for(namespace, "few", training_with(3), timeout=240)
    assert degraded(everyone)[0] == "False"
    assert everyone["progress"]["resumedFromStep"] >= fewer["progress"]["step"], "growing loses no step"
    # No word of the attempt: a kubelet that hears of the device after the scheduler refuses the worker, and gets another.
    assert everyone["restarts"] == 0


def test_a_worker_that_cannot_come_back_is_done_without(operator, namespace, offer):
    device = offer(3, 0)
    resources = {"requests": {"cpu": "50m", "memory": "300Mi"}, "limits": {device: 1}}
    kube.apply(jobs.endless("lossy", workers={"count": 3, "minCount": 2, "resources": resources}), namespace)
    jobs.wait_for(namespace, "lossy", jobs.running_at(100), timeout=240)
    offer(2, 0)
    kube.kubectl("delete", "pod", f"--namespace={namespace}", "lossy-2-1", "--wait=false")
    fewer = jobs.wait_for(namespace, "lossy", training_with(2), timeout=240)
    assert fewer["workers"]["absent"] == [2]
    assert (fewer["restarts"], fewer["failure"]["worker"]) == (1, 2)


def test_another_number_of_workers_goes_on_from_the_very_step(operator, namespace):
    kube.apply(jobs.endless("sized"), namespace)
    jobs.wait_for(namespace, "sized", jobs.running_at(100))
    for attempt, count in ((2, 3), (3, 1)):
        before = jobs.status(namespace, "sized")
        patch = json.dumps({"spec": {"workers": {"count": count}}})
        kube.kubectl("patch", "tj", "sized", f"--namespace={namespace}", "--type=merge", f"--patch={patch}")
        after = jobs.wait_for(
            namespace,
            "sized",
            lambda now, attempt=attempt: now.get("phase") == "Running" and now.get("attempt") == attempt,
            timeout=240,
        )
        assert after["workers"]["desired"] == after["workers"]["training"] == count
        assert after["progress"]["resumedFromStep"] >= before["progress"]["step"]
        assert (after["restarts"], after["progress"].get("replayedSteps", 0)) == (0, 0)
    events = kube.kubectl("get", "events", f"--namespace={namespace}", "--field-selector=reason=Scaled")
    assert "workers.count changed from 2 to 3" in events
    assert "workers.count changed from 3 to 1" in events


def test_a_size_is_not_changed_at_the_price_of_the_state(operator, namespace):
    manifest = jobs.endless("volatile")
    manifest["spec"]["checkpoint"] = {"everySteps": 50}
    kube.apply(manifest, namespace)
    jobs.wait_for(namespace, "volatile", jobs.running_at(1))
    patch = '--patch={"spec":{"workers":{"count":3}}}'
    with pytest.raises(kube.CommandError, match="the state is in worker 0's scratch space"):
        kube.kubectl("patch", "tj", "volatile", f"--namespace={namespace}", "--type=merge", patch)
