"""Waiting for one's turn: a job whose workers hold nothing yet, since they are admitted all together or not at all.

Nothing is given back while it waits, for nothing is held; the start deadline begins when its turn has come, and the deadline
of the whole job stands still until then.
"""

from datetime import datetime

from trainwright.api.spec import Gang, TrainingJobSpec
from trainwright.api.status import ConditionType, Phase, TrainingJobStatus
from trainwright.build import group_of
from trainwright.plan.membership import Crew
from trainwright.plan.types import Observed, Pod, Ticket

GATED = "SchedulingGated"
"""What Kubernetes calls a pod that no scheduler looks at yet, since somebody holds it back."""


def waits(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> bool:
    """Return whether the workers wait for their turn: none has a place, and one says that it may not have one yet."""
    pods = [pod for pod in crew.newest.values() if not pod.deleting]
    together = _placed_together(observed, spec, status)
    return any(_is_held_back(pod, together=together) for pod in pods) and not any(pod.node for pod in pods)


def _placed_together(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus) -> bool:
    """Return whether pods of a group find places all together. Kueue alone grants quota: then each looks for its own."""
    if not spec.scheduling.in_kueue:
        return True
    job = observed.job
    group = group_of(job.name, job.uid, spec, status.oldest_attempt, served=observed.groups_served)
    return group is not None and group.gang != Gang.NONE


def _is_held_back(pod: Pod, *, together: bool) -> bool:
    if pod.waiting is None:
        return False
    return pod.waiting[0] == GATED or (together and pod.group is not None and pod.waiting[0] == "Unschedulable")


def stop_clock(before: TrainingJobStatus, status: TrainingJobStatus, now: datetime) -> TrainingJobStatus:
    """Return the new status, in which the time that the job has just spent in a queue counts as no time of activity."""
    queued = before.condition(ConditionType.QUEUED)
    if before.phase != Phase.QUEUED or status.phase == Phase.QUEUED or queued is None or status.started_at is None:
        return status
    return status.model_copy(update={"started_at": status.started_at + (now - queued.last_transition_time)})


def ticket(spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> Ticket | None:
    """Return what to ask Kueue for the place of, or None if the job is in no line of its."""
    scheduling = spec.scheduling
    if status.phase != Phase.QUEUED or not scheduling.in_kueue or scheduling.queue is None:
        return None
    # Kueue calls what it admits by the name of the group, or after the only pod.
    pods = [crew.newest[index] for index in sorted(crew.newest)]
    held = next((pod for pod in pods if pod.waiting is not None), None)
    return None if held is None else Ticket(scheduling.queue, held.group, held.name)


def describe(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> tuple[str, str]:
    """Return (reason, message) of a job that waits for its turn."""
    count, queue = spec.workers.count, spec.scheduling.queue
    pods = [crew.newest[index] for index in sorted(crew.newest)]
    together = _placed_together(observed, spec, status)
    held = [pod for pod in pods if _is_held_back(pod, together=together)]
    gated = sum(pod.waiting is not None and pod.waiting[0] == GATED for pod in held)
    if gated and queue is not None:
        return "WaitingInQueue", f"waiting in queue {queue}{_place(observed)}; no worker holds resources"
    if gated:
        return "SchedulingGated", f"{gated} of {count} workers are held back by a scheduling gate"
    # Of the pods that a scheduler looked at, one or the other says what is missing, and all say that it is not enough.
    said = max((pod.waiting[1] for pod in held if pod.waiting is not None), key=_tells_of_nodes, default="")
    where = f" in queue {queue}" if queue is not None else ""
    text = f"waiting{where} until all {count} workers can be placed at once; none holds resources"
    return "WaitingForAllPlaces", f"{text}: {said}" if said else text


def _tells_of_nodes(message: str) -> bool:
    return "nodes are available" in message


def _place(observed: Observed) -> str:
    place = observed.place
    if place is None:
        return ""
    others = f", {place.overall} among all queues that share its quota" if place.overall > place.place else ""
    return f" at place {place.place} of {place.length}{others}"
