"""What the cluster refuses, or waits for without end, is told with the field of the spec that asks for it and the remedy."""

from dataclasses import replace
from datetime import timedelta

import pytest
from situations import NOW, job, observed, pod, spec, status_after

from trainwright.plan import plan

SECRET = {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}}
VOLUMES = [
    {"name": "data", "mountPath": "/data", "configMap": {"name": "corpus"}},
    {"name": "images", "mountPath": "/images", "persistentVolumeClaim": {"claimName": "images"}},
]
BY_THEMSELVES = "and the pods start by themselves, or correct"


def told(workers, checkpoint=None, pods=(), now=NOW, **fields):
    """Return (reason, message) of a job with these workers and pods."""
    asked = spec(
        workers={"count": 2, **workers}, checkpoint={"persistentVolumeClaim": checkpoint}, **fields.pop("spec", {})
    )
    waiting = replace(job(), spec=asked)
    waiting = replace(waiting, status=status_after(plan(observed(waiting))))
    status = plan(observed(waiting, *pods, now=now, **fields)).status
    return status.reason, status.message


@pytest.mark.parametrize(
    ("refusal", "remedy"),
    [
        (
            'pods "digits-0-1" is forbidden: pod rejected: RuntimeClass "gvisor" not found',
            "correct spec.workers.runtimeClassName, or have the RuntimeClass created",
        ),
        (
            'pods "digits-0-1" is forbidden: no PriorityClass with name urgent was found',
            "correct spec.workers.priorityClassName, or have the PriorityClass created",
        ),
        (
            'pods "digits-0-1" is forbidden: error looking up service account team/train: serviceaccount "train" not found',
            "correct spec.workers.serviceAccountName, or have the service account created",
        ),
        (
            'pods "digits-0-1" is forbidden: exceeded quota: gpus, requested: pods=1, used: pods=8, limited: pods=8',
            "ask for less (spec.workers.resources, spec.workers.count), or have the namespace's quota raised",
        ),
        (
            'pods "digits-0-1" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi',
            "keep spec.workers.resources within the namespace's LimitRange, or have it changed",
        ),
        (
            "no scheduling.volcano.sh/v1beta1 PodGroup in this cluster: the server could not find the requested resource",
            "correct spec.scheduling.gang, or have that scheduler installed",
        ),
    ],
)
def test_what_admission_refuses(refusal, remedy):
    assert told({}, rejection=refusal) == (
        "CreationRefused",
        f"the cluster refuses to create a worker: {refusal}; {remedy}",
    )


def test_a_refusal_that_nobody_knows_is_quoted_as_it_is():
    assert told({}, rejection="admission webhook said no.")[1] == (
        "the cluster refuses to create a worker: admission webhook said no."
    )


@pytest.mark.parametrize(
    ("workers", "why", "remedy"),
    [
        (
            {"image": "nginx:none"},
            ("ErrImagePull", "nginx:none: not found"),
            "correct spec.workers.image, or name a Secret that may pull it in spec.workers.imagePullSecrets",
        ),
        (
            {},
            ("ImagePullBackOff", "Back-off pulling image"),
            "this is the operator's default image: have it corrected there, or set spec.workers.image",
        ),
        (
            {"env": [SECRET]},
            ("CreateContainerConfigError", 'secret "keys" not found'),
            f"create the Secret, {BY_THEMSELVES} spec.workers.env[0].valueFrom.secretKeyRef (TOKEN)",
        ),
        (
            {"env": [SECRET]},
            ("CreateContainerConfigError", "couldn't find key token in Secret team/keys"),
            f"create the key, {BY_THEMSELVES} spec.workers.env[0].valueFrom.secretKeyRef (TOKEN)",
        ),
    ],
)
def test_what_a_kubelet_waits_for(workers, why, remedy):
    stuck = pod(1, phase="Pending", waiting=why)
    assert told(workers, pods=[pod(0), stuck]) == (
        why[0],
        f"1 of 2 workers waiting, {why[0]}: {why[1]}; {remedy}",
    )


def test_a_missing_config_map_that_only_an_event_tells_of():
    event = ("FailedMount", 'MountVolume.SetUp failed for volume "data" : configmap "corpus" not found')
    stuck = pod(1, phase="Pending", waiting=("ContainerCreating", ""), warning=event)
    assert told({"volumes": VOLUMES}, pods=[pod(0), stuck]) == (
        "FailedMount",
        (
            f"1 of 2 workers waiting, FailedMount: {event[1]}; create the ConfigMap, {BY_THEMSELVES} "
            "spec.workers.volumes[0].configMap.name"
        ),
    )


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (
            'persistentvolumeclaim "models" not found',
            f"create the claim, {BY_THEMSELVES} spec.checkpoint.persistentVolumeClaim",
        ),
        (
            'persistentvolumeclaim "images" not found',
            f"create the claim, {BY_THEMSELVES} spec.workers.volumes[1].persistentVolumeClaim.claimName",
        ),
        (
            "pod has unbound immediate PersistentVolumeClaims. not found",
            (
                "no volume is bound to spec.checkpoint.persistentVolumeClaim (models), "
                "spec.workers.volumes[1].persistentVolumeClaim.claimName (images): kubectl describe pvc says why; often its storage "
                "class does not exist"
            ),
        ),
    ],
)
@pytest.mark.parametrize("group", [None, "digits-111122-1x2"])
def test_claims_without_a_volume(said, remedy, group):
    why = ("Unschedulable", f"0/3 nodes are available: {said}.")
    pods = [pod(index, phase="Pending", waiting=why, group=group) for index in range(2)]
    pods = [replace(each, node=None) for each in pods]
    reason, message = told({"volumes": VOLUMES}, checkpoint="models", pods=pods, groups_served=group is not None)
    assert reason == ("Unschedulable" if group is None else "WaitingForAllPlaces")
    assert message.endswith(f"{said}; {remedy}"), message


def test_the_reason_of_a_start_that_was_given_up_has_the_remedy_too():
    stuck = pod(1, phase="Pending", waiting=("ErrImagePull", "not found"))
    late = NOW + timedelta(seconds=61)
    deadline = {"startDeadlineSeconds": 60}
    _, message = told({"image": "nginx:none"}, pods=[pod(0), stuck], now=late, spec=deadline)
    assert "ErrImagePull: not found; correct spec.workers.image" in message


@pytest.mark.parametrize(
    ("fields", "scheduler", "remedy"),
    [
        (
            {"workers": {"schedulerName": "mine"}},
            "mine",
            "correct spec.workers.schedulerName, or have that scheduler installed",
        ),
        (
            {"spec": {"scheduling": {"gang": "volcano"}}},
            "volcano",
            "spec.scheduling.gang: volcano needs it: have it installed, or correct the field",
        ),
        ({}, "default-scheduler", "it is the cluster's own: have it looked at"),
    ],
)
def test_pods_that_no_scheduler_looks_at(fields, scheduler, remedy):
    pods = [pod(index, phase="Pending", created_at=NOW, scheduler=scheduler) for index in range(2)]
    pods = [replace(each, node=None) for each in pods]
    asked = {"workers": {}, **fields, "pods": pods}
    assert told(**asked, now=NOW + timedelta(seconds=29))[0] == "WorkersPending"
    assert told(**asked, now=NOW + timedelta(seconds=30)) == (
        "SchedulerSilent",
        f"2 of 2 workers: no scheduler called {scheduler} has placed them or said why not for more than 30 s; {remedy}",
    )
    placed = [replace(each, node="gpu-1") for each in pods]
    assert told(**{**asked, "pods": placed}, now=NOW + timedelta(seconds=30))[0] == "WorkersPending"


def test_a_pass_is_due_when_a_scheduler_has_been_silent_for_long():
    waiting = replace(job(), status=status_after(plan(observed(job()))))
    pods = [replace(pod(index, phase="Pending", created_at=NOW), node=None) for index in range(2)]
    assert plan(observed(waiting, *pods, now=NOW + timedelta(seconds=10))).requeue_after == pytest.approx(20)
