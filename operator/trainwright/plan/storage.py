"""Whether checkpoints outlive the pods. Without a volume or an object store they are lost with worker 0's pod."""

from trainwright.api.status import Phase, TrainingJobStatus
from trainwright.plan.types import Pass

_HALTED = (Phase.SUSPENDED, Phase.FAILED)


def lasts(current: Pass) -> bool:
    """Return whether checkpoints outlive the pods that wrote them."""
    return current.spec.checkpoint.durable or current.observed.settings.pods_leave_files


def at_stake(current: Pass, status: TrainingJobStatus) -> bool:
    """Return whether there are checkpoints that would be lost with worker 0's pod."""
    return bool(status.checkpoints) and not lasts(current)


def forget(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status without the checkpoints that were lost with worker 0's pod, which was replaced or deleted."""
    if not status.checkpoints or lasts(current):
        return status
    replaced = status.oldest_attempt > current.job.status.oldest_attempt
    gone = status.phase in _HALTED and current.pods.left(current.now) == 0
    return status.changed(checkpoints=[]) if replaced or gone else status


def loss(current: Pass, status: TrainingJobStatus) -> str:
    """Return a note that deleting worker 0's pod makes training start from the beginning; empty if it can resume."""
    if status.progress.step == 0 or lasts(current):
        return ""
    return (
        "; it will start from the beginning, because its checkpoints are deleted with worker 0's pod "
        "(spec.checkpoint has neither persistentVolumeClaim nor uri)"
    )
