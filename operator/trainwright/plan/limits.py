"""Time limits of a job: the deadline while it is active, the time to live after its end."""

from datetime import datetime, timedelta

from trainwright.api.exit_codes import FailureClass
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Failure, Phase, TrainingJobStatus
from trainwright.plan.restart import fail
from trainwright.plan.types import Job, Pass


def deadline(spec: TrainingJobSpec, status: TrainingJobStatus) -> datetime | None:
    """Return when the job is stopped if it is not done by then; time in a queue does not count."""
    if spec.active_deadline_seconds is None or status.started_at is None or status.phase == Phase.QUEUED:
        return None
    return status.started_at + timedelta(seconds=spec.active_deadline_seconds)


def enforce_deadline(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status, failed if the deadline has passed."""
    limit = deadline(current.spec, status)
    if limit is None or current.now < limit:
        return status
    why = ""
    hint = "The workers were told to save first. Start a new job with a later deadline, more workers or fewer steps."
    if status.phase in (Phase.PENDING, Phase.RESTARTING):
        why = f"; until then: {status.message}"
        hint = "Start a new job with a later deadline, or one that asks for less."
    failure = Failure(
        category=FailureClass.USER_ERROR,
        message=f"not done within {current.spec.active_deadline_seconds} s (spec.activeDeadlineSeconds){why}",
        hint=hint,
        attempt=status.attempt,
        reason="DeadlineExceeded",
        failed_at=current.now,
    )
    return fail(status, failure, current.now)


def expiry(job: Job, status: TrainingJobStatus) -> datetime | None:
    """Return when the finished job is deleted."""
    if job.time_to_live is None or status.finished_at is None:
        return None
    return status.finished_at + timedelta(seconds=job.time_to_live)
