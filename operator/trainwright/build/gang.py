"""Gang scheduling: the pod group that a scheduler places together, and the fields that make a pod a member of it.

Four systems support such groups. Kubernetes, Volcano and scheduler-plugins use a PodGroup object. Kueue uses labels on the pods
and can be combined with the others, because it only grants quota while they schedule the pods.
"""

from dataclasses import dataclass

from trainwright.api.amounts import multiply_quantity
from trainwright.api.names import LABEL_GROUP
from trainwright.api.spec import Gang, TrainingJobSpec
from trainwright.api.spec.workers import ResourcesSpec
from trainwright.build.manifest import Manifest
from trainwright.build.naming import job_labels, owner_reference

GROUPS_API = "scheduling.k8s.io/v1beta1"
"""API version of Kubernetes' own PodGroup: available since 1.37 if an administrator has enabled it."""
GROUPS_RESOURCE = "podgroups"

_VERSIONS = {
    Gang.KUBERNETES: GROUPS_API,
    Gang.VOLCANO: "scheduling.volcano.sh/v1beta1",
    Gang.SCHEDULER_PLUGINS: "scheduling.x-k8s.io/v1alpha1",
}
_DEFAULT_SCHEDULER = "default-scheduler"
_SCHEDULERS = {Gang.VOLCANO: "volcano", Gang.SCHEDULER_PLUGINS: "scheduler-plugins-scheduler"}


@dataclass(frozen=True)
class Group:
    """A group of pods that are scheduled together or not at all.

    Attributes:
        name: Its name. It differs for each start and each size, because the size of a group is immutable.
        gang: The system that schedules the group; NONE if only Kueue handles it.
    """

    name: str
    gang: Gang


def group_of(job: str, uid: str, spec: TrainingJobSpec, oldest_attempt: int, *, served: bool) -> Group | None:
    """Return the group that a start of all workers forms, or None if it forms none.

    Args:
        job: Name of the job.
        uid: Its UID.
        spec: The job.
        oldest_attempt: The attempt in which all workers start.
        served: Whether the cluster serves Kubernetes' own groups.
    """
    gang = _gang(spec, served=served)
    if gang == Gang.NONE and not (spec.scheduling.in_kueue and spec.workers.count > 1):
        return None
    # Kueue needs the total size of the group, the others the minimum size.
    size = spec.workers.count if spec.scheduling.in_kueue else quorum(spec)
    return Group(f"{job}-{uid[:6]}-{oldest_attempt}x{size}", gang)


def _gang(spec: TrainingJobSpec, *, served: bool) -> Gang:
    gang = spec.scheduling.gang
    if gang == Gang.VOLCANO:
        return gang  # Volcano reads the queue from the group, even for a single pod
    if spec.workers.count == 1:
        return Gang.NONE
    if gang == Gang.AUTO:
        known = served and spec.workers.scheduler_name in (None, _DEFAULT_SCHEDULER)
        return Gang.KUBERNETES if known else Gang.NONE
    return gang


def quorum(spec: TrainingJobSpec) -> int:
    """Return the minimum number of workers to schedule at once."""
    return spec.workers.min_count or spec.workers.count


def pod_group(namespace: str, job: str, uid: str, spec: TrainingJobSpec, group: Group) -> Manifest | None:
    """Return the PodGroup object, or None if the gang needs none."""
    if group.gang == Gang.NONE:
        return None
    return {
        "apiVersion": _VERSIONS[group.gang],
        "kind": "PodGroup",
        "metadata": {
            "name": group.name,
            "namespace": namespace,
            "labels": job_labels(job),
            "ownerReferences": [owner_reference(job, uid)],
        },
        "spec": _terms(group.gang, spec),
    }


def _terms(gang: Gang, spec: TrainingJobSpec) -> Manifest:
    workers, least = spec.workers, quorum(spec)
    priority = {"priorityClassName": workers.priority_class_name} if workers.priority_class_name else {}
    if gang == Gang.KUBERNETES:
        # If one pod of the gang were preempted, the others would hold resources without any use.
        together: Manifest = {"disruptionMode": {"all": {}}} if least == workers.count else {}
        return {"schedulingPolicy": {"gang": {"minCount": least}}, **together, **priority}
    resources = _needed(workers.resources, least)
    terms = {"minMember": least, **({"minResources": resources} if resources else {})}
    if gang == Gang.SCHEDULER_PLUGINS:
        return terms
    queue = {"queue": spec.scheduling.queue} if spec.scheduling.queue else {}
    return {**terms, **queue, **priority}


def _needed(resources: ResourcesSpec | None, workers: int) -> dict[str, str]:
    """Return the total resource requests of that many workers."""
    if resources is None:
        return {}
    # As in the API server, a missing request defaults to the limit.
    asked = {**(resources.limits or {}), **(resources.requests or {})}
    return {name: multiply_quantity(amount, workers) for name, amount in sorted(asked.items())}


def join(pod: Manifest, spec: TrainingJobSpec, group: Group | None) -> Manifest:
    """Return the pod with the fields of its group and of the job's queue, if it has them."""
    labels, annotations = dict(pod["metadata"]["labels"]), dict(pod["metadata"]["annotations"])
    fields: Manifest = {}
    if spec.scheduling.gang in _SCHEDULERS:
        fields["schedulerName"] = spec.workers.scheduler_name or _SCHEDULERS[spec.scheduling.gang]
    if spec.scheduling.in_kueue:
        _enqueue(spec, group, labels, annotations)
    if group is not None:
        labels[LABEL_GROUP] = group.name
        match group.gang:
            case Gang.KUBERNETES:
                fields["schedulingGroup"] = {"podGroupName": group.name}
            case Gang.VOLCANO:
                annotations["scheduling.k8s.io/group-name"] = group.name
            case Gang.SCHEDULER_PLUGINS:
                labels["scheduling.x-k8s.io/pod-group"] = group.name
    metadata = {**pod["metadata"], "labels": labels, "annotations": annotations}
    return {**pod, "metadata": metadata, "spec": {**pod["spec"], **fields}}


def _enqueue(spec: TrainingJobSpec, group: Group | None, labels: dict[str, str], annotations: dict[str, str]) -> None:
    """Add Kueue's labels. Kueue's webhook then gates the pod until its whole group has quota."""
    scheduling = spec.scheduling
    labels["kueue.x-k8s.io/queue-name"] = scheduling.queue or ""
    if scheduling.priority is not None:
        labels["kueue.x-k8s.io/priority-class"] = scheduling.priority
    if group is None:
        return
    labels["kueue.x-k8s.io/pod-group-name"] = group.name
    annotations["kueue.x-k8s.io/pod-group-total-count"] = str(spec.workers.count)
    # Replacement pods have the same role, even if they avoid a node and their spec thus differs.
    annotations["kueue.x-k8s.io/role-hash"] = "workers"
    # The group releases its quota when all its pods have ended, because a restart of all workers creates a new group.
    annotations["kueue.x-k8s.io/retriable-in-group"] = "false"
