"""In which phase a job is, from its pods and reports. Failure, suspension and deadlines were dealt with before."""

from datetime import datetime

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Phase, TrainingJobStatus
from trainwright.api.worker import WorkerReport
from trainwright.plan import elastic, postmortem, queue, restart, scale
from trainwright.plan.membership import Crew
from trainwright.plan.progress import stepping
from trainwright.plan.types import Observed


def begin(spec: TrainingJobSpec, status: TrainingJobStatus, now: datetime) -> TrainingJobStatus:
    """Return the status of a job whose workers are to start: for the first time, or after a suspension."""
    attempt = status.attempt + 1
    # Up to here a suspended launch may still have said what it saved on its way out.
    progress = status.progress.model_copy(update={"ended_launch": status.progress.launch})
    return status.model_copy(
        update={
            "progress": progress,
            "workers": scale.fitted(spec, status.workers),
            "phase": Phase.PENDING,
            "attempt": attempt,
            "oldest_attempt": attempt,
            "started_at": now,
            "next_start": None,
            "waiting_since": now,
        }
    )


def suspend(spec: TrainingJobSpec, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status of a job whose workers are to save and go. Whoever resumes gets the whole deadline."""
    return status.model_copy(
        update={
            "phase": Phase.SUSPENDED,
            "workers": scale.fitted(spec, status.workers),
            "started_at": None,
            "next_start": None,
            "waiting_since": None,
        }
    )


def succeed(status: TrainingJobStatus, crew: Crew, now: datetime) -> TrainingJobStatus:
    """Return the status of a job whose work is done: since worker 0 ended, however late that is noticed.

    It has failed if worker 0 never said a word. Ours always does at its end; an image that is no worker may end well at once.
    """
    leader = crew.newest[0]
    if leader.termination is None and not leader.garbled and status.progress.reported_at is None:
        return restart.fail(status, postmortem.mute(leader, status.attempt, now), now)
    ended = leader.finished_at or now
    begun = status.started_at or ended
    return status.model_copy(
        update={
            "phase": Phase.SUCCEEDED,
            # By its node's clock, which may be wrong.
            "finished_at": min(now, max(begun, ended)),
            "next_start": None,
            "waiting_since": None,
        }
    )


def done(crew: Crew) -> bool:
    """Return whether the work is done: worker 0 ends well only after all ranks did and everything is written."""
    leader = crew.newest.get(0)
    return leader is not None and leader.phase == "Succeeded"


def advance(
    spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew, report: WorkerReport | None, observed: Observed
) -> TrainingJobStatus:
    """Return the status in the phase that its pods and the newest report show.

    Running means that a step was taken. An operator that has just started has no report yet; what ran then still runs.
    """
    if not elastic.complete(spec, status, crew, report):
        now = observed.now
        if queue.waits(observed, spec, status, crew):
            return status.model_copy(update={"phase": Phase.QUEUED, "waiting_since": status.waiting_since or now})
        waiting = status.phase if status.phase in (Phase.PENDING, Phase.RESTARTING) else Phase.PENDING
        # Its turn has come just now, however long it waited for that.
        since = now if status.phase == Phase.QUEUED else status.waiting_since or now
        return status.model_copy(update={"phase": waiting, "waiting_since": since})
    running = stepping(report) or (report is None and status.phase == Phase.RUNNING)
    return status.model_copy(
        update={
            "phase": Phase.RUNNING if running else Phase.STARTING,
            "workers": status.workers.model_copy(update={"formerly": None}),
            "waiting_since": None,
            "starts_given_up": 0,
        }
    )
