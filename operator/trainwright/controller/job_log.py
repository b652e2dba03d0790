"""Logs the life of each job: one line whenever a written status says that the job has come to another point of it."""

import structlog

from trainwright.api.status import ConditionType, Phase, TrainingJobStatus
from trainwright.plan.types import Job

log = structlog.get_logger(__name__)


def log_change(job: Job, status: TrainingJobStatus) -> None:
    """Log that a new status was written, if phase, attempt, restarts, number of workers or acceptance have changed.

    Args:
        job: The job as it was before.
        status: The status that was written.
    """
    before = job.status
    if _point(before) == _point(status):
        return
    failure = status.failure if status.restarts != before.restarts or status.phase == Phase.FAILED else None
    log.info(
        "job changed",
        namespace=job.namespace,
        name=job.name,
        uid=job.uid,
        attempt=status.attempt,
        restarts=status.restarts,
        workers=status.workers.desired,
        phase=status.phase,
        previous_phase=before.phase,
        reason=status.reason,
        message=status.message,
        **({} if failure is None else {"failure": str(failure.category), "worker": failure.worker}),
    )


def _point(status: TrainingJobStatus) -> tuple[object, ...]:
    accepted = status.condition(ConditionType.ACCEPTED)
    acceptance = None if accepted is None else accepted.status
    return status.phase, status.attempt, status.restarts, status.workers.desired, acceptance
