"""A kubelet tells in events alone why it does not start a pod: who is asked about, when, and what is made of the answer."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, job, observed, pod

from trainwright.plan import plan

LATE = NOW + timedelta(seconds=10)
CREATING = ("ContainerCreating", "")
MOUNT = ("FailedMount", 'MountVolume.SetUp failed for volume "data" : configmap "corpus" not found')


@pytest.fixture
def waiting():
    """Return a job whose pods are being started."""
    fresh = job()
    return replace(fresh, status=plan(observed(fresh)).status)


@pytest.mark.parametrize(
    ("pods", "subject"),
    [
        ((pod(0), pod(1, phase="Pending", waiting=CREATING)), "uid-1-1"),
        ((pod(0, phase="Pending", waiting=CREATING), pod(1, phase="Pending", waiting=CREATING)), "uid-0-1"),
        ((pod(0), pod(1, phase="Pending", waiting=("PodInitializing", ""))), "uid-1-1"),
        ((pod(0), pod(1, phase="Pending", waiting=("ImagePullBackOff", "no such image"))), None),
        ((pod(0), pod(1, phase="Pending", waiting=("Unschedulable", "0/3 nodes"))), None),
        ((pod(0), pod(1, phase="Pending", waiting=CREATING, deletes_at=LATE)), None),
        ((pod(0), pod(1)), None),
    ],
)
def test_asks_about_the_first_pod_that_its_kubelet_is_late_with(waiting, pods, subject):
    assert plan(observed(waiting, *pods, now=LATE)).warnings_of == subject


def test_asks_nobody_before_it_takes_long_and_looks_again_then(waiting):
    pods = (pod(0, phase="Pending", waiting=CREATING), pod(1))
    first = plan(observed(waiting, *pods))
    assert first.warnings_of is None
    settled = replace(waiting, status=first.status or waiting.status)
    again = plan(observed(settled, *pods, now=NOW + timedelta(seconds=4)))
    assert again.warnings_of is None
    assert again.requeue_after == 6


def test_the_warning_is_the_reason_for_as_long_as_the_pod_does_not_start(waiting):
    stuck = pod(1, phase="Pending", waiting=CREATING, warning=MOUNT)
    told = plan(observed(waiting, pod(0), stuck, now=LATE))
    assert told.status.reason == "FailedMount"
    assert told.status.message == f"1 of 2 workers waiting, FailedMount: {MOUNT[1]}"
    assert told.warnings_of == "uid-1-1"  # it may have changed
    started = plan(
        observed(replace(waiting, status=told.status), pod(0), replace(stuck, phase="Running", waiting=None))
    )
    assert started.status.reason == "Rendezvous"


def test_a_configuration_that_somebody_has_deleted_is_made_again_for_pods_that_wait_for_it(waiting):
    made = plan(observed(waiting)).create
    name = next(manifest["metadata"]["name"] for manifest in made if manifest["kind"] == "ConfigMap")
    gone = ("FailedMount", f'MountVolume.SetUp failed for volume "config" : configmap "{name}" not found')
    stuck = [pod(index, phase="Pending", waiting=CREATING, warning=gone) for index in (0, 1)]
    again = plan(observed(waiting, *stuck, now=LATE)).create
    assert [manifest for manifest in made if manifest["kind"] != "Pod"] == list(again)
    others = [replace(each, warning=MOUNT) for each in stuck]
    assert plan(observed(waiting, *others, now=LATE)).create == ()


def test_what_the_scheduler_says_now_comes_before_what_was_warned_of():
    blocked = pod(1, phase="Pending", waiting=("Unschedulable", "0/3 nodes"), warning=MOUNT)
    assert blocked.obstacle == ("Unschedulable", "0/3 nodes")
