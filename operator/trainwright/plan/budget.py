"""The budget of a job: when it is spent, the workers save and stop, and then the job fails with a message of what was saved.

These are two steps because the end is final: the message is written once nothing more can be saved.
"""

from datetime import datetime

from trainwright.api.amounts import later
from trainwright.api.exit_codes import FailureClass
from trainwright.api.names import CHECKPOINT_MOUNT
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Failure, Phase, TrainingJobStatus
from trainwright.plan import storage
from trainwright.plan.goodput import worker_seconds
from trainwright.plan.pods import WorkerPods
from trainwright.plan.restart import fail
from trainwright.plan.types import Pass

_HOUR = 3600.0


def worker_seconds_allowed(spec: TrainingJobSpec) -> float | None:
    """Return for how many seconds workers may run, summed over all of them; None without a bound."""
    if spec.budget is None:
        return None
    if spec.budget.worker_hours is not None:
        return spec.budget.worker_hours * _HOUR
    gpus = spec.workers.gpus
    return (spec.budget.gpu_hours or 0) * _HOUR / gpus if gpus else None


def name(spec: TrainingJobSpec) -> str:
    """Return the budget for messages, with the field that sets it."""
    budget = spec.budget
    if budget is None:
        return "no budget"
    if budget.worker_hours is not None:
        return f"{budget.worker_hours:g} worker hours (spec.budget.workerHours)"
    return f"{budget.gpu_hours:g} GPU hours (spec.budget.gpuHours)"


def spent_at(spec: TrainingJobSpec, status: TrainingJobStatus, now: datetime) -> datetime | None:
    """Return when the budget will be spent if the workers that run now go on; None if it will not be."""
    allowed, held = worker_seconds_allowed(spec), status.workers.ready
    if allowed is None or held == 0 or status.budget_spent_at is not None:
        return None
    return later(now, max(0.0, allowed - worker_seconds(status, now)) / held)


def enforce(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status: unchanged, stopping because the budget is spent, or failed once all workers are gone.

    If the budget is raised while the workers stop, the job goes on like a suspended one that is resumed.
    """
    if status.budget_spent_at is not None:
        if _is_raised(current, status):
            return status.changed(budget_spent_at=None, phase=Phase.SUSPENDED)
        if current.pods.left(current.now) == 0:
            return fail(status, _failure(current, status), current.now)
        return status
    allowed = worker_seconds_allowed(current.spec)
    if allowed is None or worker_seconds(status, _held_until(status, current.pods, current.now)) < allowed:
        return status
    return status.changed(budget_spent_at=current.now, next_start=None, waiting_since=None)


def _is_raised(current: Pass, status: TrainingJobStatus) -> bool:
    """Return whether an edit has made the budget larger than what was spent. Only an edit can: what was spent only grows."""
    if current.job.generation == status.observed_generation:
        return False
    allowed = worker_seconds_allowed(current.spec)
    unwritten = current.spec.workers.count  # The ledger's seconds are whole: each worker may have used up to one more.
    return allowed is None or worker_seconds(status, current.now) + unwritten < allowed


def _held_until(status: TrainingJobStatus, pods: WorkerPods, now: datetime) -> datetime:
    """Return until when all the workers that the status counts were held: until the first end that it does not know of yet.

    After an absence the operator must not charge what nobody held, nor take a failed job for one whose budget is spent.
    """
    known = now if status.goodput is None else status.goodput.until
    ends = (pod.finished_at for pod in pods.newest.values() if pod.ended and pod.finished_at is not None)
    return min((end for end in ends if end > known), default=now)


def _failure(current: Pass, status: TrainingJobStatus) -> Failure:
    progress = status.progress
    where = f"step {progress.step}" + (f" of {progress.total_steps}" if progress.total_steps else "")
    saved = status.checkpoints[-1] if status.checkpoints else None
    if saved is None:
        kept = "nothing was saved yet"
        hint = "Start a job with a larger spec.budget."
    elif storage.lasts(current):
        kept = f"step {saved.step} is saved in {saved.path}"
        path = saved.path.removeprefix(f"{CHECKPOINT_MOUNT}/")
        hint = f"To go on from these weights, start a job with a budget of its own and spec.startFrom.path: {path}"
    else:
        kept = f"step {saved.step} was saved in worker 0's scratch space and is gone with it"
        hint = (
            "Start a job with a larger spec.budget, and set spec.checkpoint.persistentVolumeClaim or uri to keep state."
        )
    return Failure(
        category=FailureClass.USER_ERROR,
        message=f"the budget of {name(current.spec)} is spent at {where}; {kept}",
        hint=hint,
        attempt=status.attempt,
        reason="BudgetSpent",
        failed_at=current.now,
    )


def stopping(status: TrainingJobStatus) -> bool:
    """Return whether the workers are stopping because the budget is spent."""
    return status.budget_spent_at is not None and status.phase not in (Phase.FAILED, Phase.SUCCEEDED)
