"""Which pods a job has, which it should have, and the difference."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Phase, TrainingJobStatus, Workers, WorkerStatus
from trainwright.build import (
    Group,
    Manifest,
    Settings,
    WorkerSlot,
    config_map,
    group_of,
    network_policy,
    pod_group,
    service,
    with_additions,
    worker_pod,
)
from trainwright.build.naming import companion_name
from trainwright.plan import classes, placement
from trainwright.plan.pods import TERMINATION_SLACK, Pod, WorkerPods
from trainwright.plan.types import Job, Pass, PodDeletion

LISTED_WORKERS = 100
KEPT_ATTEMPTS = 2
"""Failed pods of so many newest attempts stay for their logs; older ones are deleted."""
LINGER = timedelta(seconds=30)
"""How long workers may take to end by themselves after the job succeeded."""
_ENDED = ("Succeeded", "Failed")


def count(pods: WorkerPods, status: TrainingJobStatus) -> Workers:
    """Return the workers as the status lists them, counted anew."""
    listed = [
        WorkerStatus(
            index=index,
            pod=pod.name,
            node=pod.node,
            phase=_phase(pod, status),
            reason=_reason(pod),
        )
        for index, pod in sorted(pods.newest.items())[:LISTED_WORKERS]
    ]
    failed = sum(pod.phase == "Failed" for pod in pods.newest.values())
    return status.workers.changed(ready=pods.running, failed=failed, pods=listed)


def _phase(pod: Pod, status: TrainingJobStatus) -> str:
    """Return the phase that the status lists: when a job succeeds all workers have, so pods that still run are about to end."""
    if pod.deleting:
        return "Terminating"
    return "Succeeded" if status.phase == Phase.SUCCEEDED and pod.phase == "Running" else pod.phase


def lists_unfinished(status: TrainingJobStatus) -> bool:
    """Return whether the status lists a worker that has not ended."""
    return any(worker.phase not in _ENDED for worker in status.workers.pods)


def _reason(pod: Pod) -> str | None:
    if pod.waiting is not None:
        return pod.waiting[0]
    return pod.reason if pod.phase == "Failed" else None


def to_create(current: Pass, status: TrainingJobStatus) -> tuple[Manifest, ...]:
    """Return the children that are missing, in the order in which they need each other.

    A worker gets a pod when none of its pods lives or has done its work. Nothing is created before the backoff is over, nor
    while a former worker 0 may still be saving what the new one should start from, nor what the platform does not allow.
    """
    spec, pods, settings = current.spec, current.pods, current.observed.settings
    if not_allowed(spec, settings) is not None:
        return ()
    if status.next_start is not None and current.now < status.next_start:
        return ()
    if any(_may_be_saving(pod, current.now) for pod in pods.superseded):
        return ()
    missing = _missing(current, status)
    if not missing and not _lacks_config(pods, current.job):
        return ()
    job = current.job
    identity = (job.namespace, job.name, job.uid)
    # Also for a single worker: no pod starts without them, and somebody may have deleted them since.
    config = config_map(*identity, spec, settings)
    companions = [config]
    if spec.workers.count > 1:
        companions.append(service(*identity, settings))
    if settings.network_policy:
        companions.append(network_policy(*identity, settings))
    group = _group(current, status)
    if not pods.newest:
        gang = pod_group(*identity, spec, group) if group is not None else None
        companions += [] if gang is None else [gang]
    avoided = placement.avoided(status)
    slots = (WorkerSlot(index, status.attempt, status.oldest_attempt, avoided, group) for index in missing)
    alike = replace(settings, worker_image=_image(pods) or settings.worker_image)
    workers = (worker_pod(*identity, spec, alike, config["metadata"]["name"], slot) for slot in slots)
    additions = classes.additions(current.applied)
    return (*companions, *(with_additions(pod, additions) if additions else pod for pod in workers))


def _missing(current: Pass, status: TrainingJobStatus) -> list[int]:
    """Return the workers whose pods are to be created now."""
    missing = without_pod(current, status)
    if current.spec.scheduling.in_kueue:
        # Until a member has ended, Kueue takes its replacement for one member too many, and deletes it.
        missing = [index for index in missing if not _is_ending(current.pods.newest.get(index))]
    if current.spec.workers.min_count is not None and 0 in missing:
        return [0]  # The pod that is created first finds room first, and without worker 0 the others cannot begin.
    return missing


def not_allowed(spec: TrainingJobSpec, settings: Settings) -> tuple[str, str] | None:
    """Return why the platform allows no pods for this job, as (reason, message), or None. Pods that run go on running."""
    allowed = {"default", *settings.service_accounts}
    account = spec.workers.service_account_name
    if account is None or account in allowed:
        return None
    listed = ", ".join(sorted(allowed))
    text = f"spec.workers.serviceAccountName: {account} is not one that the platform allows ({listed})"
    return "NotAllowed", text


def without_pod(current: Pass, status: TrainingJobStatus) -> list[int]:
    """Return the workers that have no pod which lives or has done its work."""
    return [index for index in range(current.spec.workers.count) if _needs_pod(current.pods.newest.get(index), status)]


def _image(pods: WorkerPods) -> str | None:
    """Return the image of the workers that live on: a worker that joins them needs the same, also after an upgrade."""
    return next((pod.image for pod in pods.in_order if pod.live), None)


def _group(current: Pass, status: TrainingJobStatus) -> Group | None:
    """Return the group that new pods join: that of the live ones, or none if their group was made with other terms."""
    job, served = current.job, current.observed.groups_served
    group = group_of(job.name, job.uid, current.spec, status.oldest_attempt, served=served)
    others = {pod.group for pod in current.pods.newest.values()}
    return group if group is not None and others <= {group.name} else None


def skip_taken_names(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status, in a later attempt if an earlier job's pod holds a name that is needed and does not go away.

    A job that is deleted and created again uses the same pod names, and waits until they are free. On a dead node, or where a
    finalizer holds the pod, that takes for ever.
    """
    needed = without_pod(current, status)
    former = current.observed.former_pods
    stuck = [pod for pod in former if pod.deletes_at is not None and current.now >= pod.deletes_at + TERMINATION_SLACK]
    if not any(pod.index in needed and pod.attempt == status.attempt for pod in stuck):
        return status
    return status.changed(attempt=max(pod.attempt for pod in stuck) + 1)


def _needs_pod(pod: Pod | None, status: TrainingJobStatus) -> bool:
    return pod is None or (pod.attempt < status.attempt and (pod.phase == "Failed" or pod.deleting))


def _lacks_config(pods: WorkerPods, job: Job) -> bool:
    """Return whether a pod waits to mount the job's ConfigMap: somebody has deleted it since."""
    name = companion_name(job.name, job.uid)
    warnings = (pod.warning for pod in pods.newest.values() if pod.starting)
    return any(warning is not None and name in warning[1] for warning in warnings)


def _is_ending(pod: Pod | None) -> bool:
    return pod is not None and pod.deleting and not pod.ended


def _may_be_saving(pod: Pod, now: datetime) -> bool:
    return pod.index == 0 and pod.deleting and not pod.is_over(now)


def to_delete(pods: WorkerPods, status: TrainingJobStatus, now: datetime) -> tuple[PodDeletion, ...]:
    """Return the pods that must go: those that a restart replaced, and all live ones once the job must not run."""
    if status.phase == Phase.SUCCEEDED:
        overdue = status.finished_at is not None and now >= status.finished_at + LINGER
        unwanted: Iterable[Pod] = (pod for pod in pods.all if pod.live and overdue)
    elif status.phase in (Phase.FAILED, Phase.SUSPENDED) or status.budget_spent_at is not None:
        unwanted = (pod for pod in pods.all if pod.live)
    else:
        unwanted = (
            *(pod for pod in pods.superseded if not pod.deleting and (pod.live or _is_old(pod, status))),
            *(pod for pod in pods.newest.values() if _has_old_terms(pod, status)),
        )
    return tuple(PodDeletion(pod.name, pod.uid) for pod in unwanted)


def _has_old_terms(pod: Pod, status: TrainingJobStatus) -> bool:
    """Return whether the pod has no node yet and a later attempt has changed which nodes it may use.

    Worker 0 is never replaced alone.
    """
    return pod.live and pod.node is None and pod.attempt < status.attempt and pod.index != 0


def _is_old(pod: Pod, status: TrainingJobStatus) -> bool:
    return pod.attempt <= status.attempt - KEPT_ATTEMPTS
