"""Whether what a job saves outlives its pods. Without a volume or an object store it goes with the pod of worker 0."""

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Phase, TrainingJobStatus
from trainwright.plan.membership import Crew, is_over
from trainwright.plan.types import Observed

_HALTED = (Phase.SUSPENDED, Phase.FAILED)


def lasts(observed: Observed, spec: TrainingJobSpec) -> bool:
    """Return whether checkpoints outlive the pods that wrote them."""
    return spec.checkpoint.durable or observed.settings.pods_leave_files


def at_stake(observed: Observed, status: TrainingJobStatus) -> bool:
    """Return whether there are checkpoints that would go with worker 0's pod."""
    spec = observed.job.spec
    return bool(status.checkpoints) and isinstance(spec, TrainingJobSpec) and not lasts(observed, spec)


def forget(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> TrainingJobStatus:
    """Return the status without checkpoints that went with a pod: worker 0's is replaced, or gone for good."""
    if not status.checkpoints or lasts(observed, spec):
        return status
    replaced = status.oldest_attempt > observed.job.status.oldest_attempt
    gone = status.phase in _HALTED and all(is_over(pod, observed.now) for pod in crew.all_pods)
    return status.model_copy(update={"checkpoints": []}) if replaced or gone else status


def loss(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus) -> str:
    """Return what is to be said of a job whose worker 0 has to go: that it will begin anew; empty if it will go on."""
    if status.progress.step == 0 or lasts(observed, spec):
        return ""
    return (
        "; it will begin anew, since what it saves goes with worker 0's pod "
        "(spec.checkpoint has neither persistentVolumeClaim nor uri)"
    )
