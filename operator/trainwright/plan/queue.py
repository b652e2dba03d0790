"""Jobs that wait in a queue: their workers hold no resources yet, because they are admitted together or not at all.

Nothing is given back while it waits, since nothing is held. The start deadline begins when the job leaves the queue, and the
deadline of the whole job does not count the time before.
"""

from trainwright.api.spec import Gang
from trainwright.api.status import ConditionType, Phase, TrainingJobStatus
from trainwright.build import group_of
from trainwright.plan import remedies
from trainwright.plan.pods import Pod
from trainwright.plan.types import Pass, QueueEntry

GATED = "SchedulingGated"
"""Kubernetes' reason for a pod with a scheduling gate, which schedulers ignore until the gate is removed."""


def waits(current: Pass, status: TrainingJobStatus) -> bool:
    """Return whether the workers wait to be admitted: none has a node, and at least one is not allowed to have one yet."""
    pods = [pod for pod in current.pods.newest.values() if not pod.deleting]
    together = _scheduled_together(current, status)
    return any(_is_held_back(pod, together=together) for pod in pods) and not any(pod.node for pod in pods)


def _scheduled_together(current: Pass, status: TrainingJobStatus) -> bool:
    """Return whether pods of a group are scheduled all together. Kueue alone only grants quota: each is scheduled by itself."""
    if not current.spec.scheduling.in_kueue:
        return True
    job = current.job
    group = group_of(job.name, job.uid, current.spec, status.oldest_attempt, served=current.observed.groups_served)
    return group is not None and group.gang != Gang.NONE


def _is_held_back(pod: Pod, *, together: bool) -> bool:
    if pod.waiting is None:
        return False
    return pod.waiting[0] == GATED or (together and pod.group is not None and pod.waiting[0] == "Unschedulable")


def stop_clock(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the new status; the time that the job has just spent in a queue does not count as active."""
    before = current.job.status
    queued = before.condition(ConditionType.QUEUED)
    if before.phase != Phase.QUEUED or status.phase == Phase.QUEUED or queued is None:
        return status
    if before.started_at is None or status.started_at is None:
        return status
    return status.changed(started_at=status.started_at + (current.now - queued.last_transition_time))


def entry(current: Pass, status: TrainingJobStatus) -> QueueEntry | None:
    """Return what identifies the job in its queue of Kueue, or None if it waits in none."""
    scheduling = current.spec.scheduling
    if status.phase != Phase.QUEUED or not scheduling.in_kueue or scheduling.queue is None:
        return None
    # Kueue names its workload after the group, or after the only pod.
    held = next((pod for pod in current.pods.in_order if pod.waiting is not None), None)
    return None if held is None else QueueEntry(scheduling.queue, held.group, held.name)


def describe(current: Pass, status: TrainingJobStatus) -> tuple[str, str]:
    """Return (reason, message) of a job that waits in a queue, or for room within the limits of its class."""
    if current.full is not None and status.started_at is None:
        return "NamespaceLimit", f"waiting: {current.full}"
    count, queue = current.spec.workers.count, current.spec.scheduling.queue
    together = _scheduled_together(current, status)
    held = [pod for pod in current.pods.in_order if _is_held_back(pod, together=together)]
    gated = sum(pod.waiting is not None and pod.waiting[0] == GATED for pod in held)
    if gated and queue is not None and current.observed.queue_unknown:
        remedy = "correct spec.scheduling.queue, or have a LocalQueue of this name created"
        return "QueueNotFound", f"Kueue knows no queue {queue} in this namespace: {remedy}; no worker holds resources"
    if gated and queue is not None:
        return "WaitingInQueue", f"waiting in queue {queue}{_position(current)}; no worker holds resources"
    if gated:
        return "SchedulingGated", f"{gated} of {count} workers are held back by a scheduling gate"
    # All pods that a scheduler considered report that there is not enough room; only some of them report what is missing.
    said = max((pod.waiting[1] for pod in held if pod.waiting is not None), key=_mentions_nodes, default="")
    where = f" in queue {queue}" if queue is not None else ""
    text = f"waiting{where} until all {count} workers can be placed at once; none holds resources"
    return "WaitingForAllPlaces", f"{text}: {remedies.with_remedy(current.spec, '', said)}" if said else text


def _mentions_nodes(message: str) -> bool:
    return "nodes are available" in message


def _position(current: Pass) -> str:
    known = current.observed.queue_position
    if known is None:
        return ""
    others = f", {known.overall} among all queues that share its quota" if known.overall > known.position else ""
    return f" at place {known.position} of {known.length}{others}"
