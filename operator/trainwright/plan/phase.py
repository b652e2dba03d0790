"""Determines the phase of a job from its pods and reports. Other policies handle failures, suspension and deadlines before."""

from datetime import datetime

from trainwright.api.status import Phase, TrainingJobStatus
from trainwright.plan import elastic, postmortem, queue, restart, scale
from trainwright.plan.pods import WorkerPods
from trainwright.plan.progress import is_stepping
from trainwright.plan.types import Pass


def begin(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status of a job whose workers are to start: for the first time, or after a suspension."""
    attempt = status.attempt + 1
    return status.changed(
        # Until now a suspended launch could still report what it saved while it stopped.
        progress=status.progress.changed(ended_launch=status.progress.launch),
        workers=scale.made_for(current.spec, status.workers),
        class_=current.applied,
        phase=Phase.PENDING,
        attempt=attempt,
        oldest_attempt=attempt,
        started_at=current.now,
        next_start=None,
        waiting_since=current.now,
    )


def suspend(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status of a job whose workers are to save and stop. When the job resumes, its deadline is reset."""
    return status.changed(
        phase=Phase.SUSPENDED,
        workers=scale.made_for(current.spec, status.workers),
        started_at=None,
        next_start=None,
        waiting_since=None,
    )


def succeed(status: TrainingJobStatus, pods: WorkerPods, now: datetime) -> TrainingJobStatus:
    """Return the status of a job whose work is done. Its end is that of worker 0, even if it is noticed late.

    The job has failed if worker 0 never reported anything. Our worker always leaves a termination message; an image that
    does not contain it may exit with code 0 at once.
    """
    leader = pods.newest[0]
    if leader.termination is None and not leader.garbled and status.progress.reported_at is None:
        return restart.fail(status, postmortem.no_worker(leader, status.attempt, now), now)
    ended = leader.finished_at or now
    begun = status.started_at or ended
    return status.changed(
        phase=Phase.SUCCEEDED,
        # The end time is from the clock of worker 0's node, which may be wrong.
        finished_at=min(now, max(begun, ended)),
        next_start=None,
        waiting_since=None,
    )


def done(pods: WorkerPods) -> bool:
    """Return whether the work is done: worker 0 succeeds only after all ranks have ended and all results are written."""
    leader = pods.newest.get(0)
    return leader is not None and leader.phase == "Succeeded"


def advance(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status in the phase that its pods and the newest report show.

    Running means that a step was taken. An operator that has just started has no report yet; a job that ran still runs.
    """
    if not elastic.complete(current, status):
        now = current.now
        if queue.waits(current, status):
            return status.changed(phase=Phase.QUEUED, waiting_since=status.waiting_since or now)
        waiting = status.phase if status.phase in (Phase.PENDING, Phase.RESTARTING) else Phase.PENDING
        # The start deadline begins when the job leaves the queue, however long it waited there.
        since = now if status.phase == Phase.QUEUED else status.waiting_since or now
        return status.changed(phase=waiting, waiting_since=since)
    running = is_stepping(current.report) or (current.report is None and status.phase == Phase.RUNNING)
    return status.changed(
        phase=Phase.RUNNING if running else Phase.STARTING,
        workers=status.workers.changed(formerly=None),
        waiting_since=None,
        starts_given_up=0,
    )
