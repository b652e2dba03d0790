"""What a job may cost: when that is spent its workers save and go, and then the job ends, saying what was saved.

Two steps, since the end is final: the status that says what was saved is written when the saving is over.
"""

from datetime import datetime

from trainwright.api.exit_codes import FailureClass
from trainwright.api.names import CHECKPOINT_MOUNT
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Failure, Phase, TrainingJobStatus
from trainwright.plan import storage
from trainwright.plan.goodput import gpus_per_worker, worker_seconds
from trainwright.plan.membership import Crew, is_over
from trainwright.plan.restart import fail
from trainwright.plan.types import Observed
from trainwright.plan.words import later

_HOUR = 3600.0


def worker_seconds_allowed(spec: TrainingJobSpec) -> float | None:
    """Return for how many seconds workers may run, all together; None if that is not bounded."""
    if spec.budget is None:
        return None
    if spec.budget.worker_hours is not None:
        return spec.budget.worker_hours * _HOUR
    gpus = gpus_per_worker(spec)
    return (spec.budget.gpu_hours or 0) * _HOUR / gpus if gpus else None


def name(spec: TrainingJobSpec) -> str:
    """Return the budget in words, with the field that sets it."""
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


def enforce(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> TrainingJobStatus:
    """Return the status: unchanged, stopping because the budget is spent, or failed once all workers are gone.

    If whoever owns it grants more meanwhile, the job goes on as one that was suspended: its workers are on their way out.
    """
    if status.budget_spent_at is not None:
        if _is_raised(observed, spec, status):
            return status.model_copy(update={"budget_spent_at": None, "phase": Phase.SUSPENDED})
        if all(is_over(pod, observed.now) for pod in crew.all_pods):
            return fail(status, _failure(observed, spec, status), observed.now)
        return status
    allowed = worker_seconds_allowed(spec)
    if allowed is None or worker_seconds(status, _held_until(status, crew, observed.now)) < allowed:
        return status
    return status.model_copy(update={"budget_spent_at": observed.now, "next_start": None, "waiting_since": None})


def _is_raised(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus) -> bool:
    """Return whether an edit has made the budget larger than what was spent: time alone never gives anything back."""
    if observed.job.generation == status.observed_generation:
        return False
    allowed = worker_seconds_allowed(spec)
    unwritten = spec.workers.count  # The ledger's seconds are whole: each worker may have used up to one more.
    return allowed is None or worker_seconds(status, observed.now) + unwritten < allowed


def _held_until(status: TrainingJobStatus, crew: Crew, now: datetime) -> datetime:
    """Return up to when all the workers that the status counts were held: the first end that it does not know of yet.

    An operator that was away must not charge what nobody held, nor take a job that has failed for one that is spent.
    """
    known = now if status.goodput is None else status.goodput.until
    ends = (pod.finished_at for pod in crew.newest.values() if pod.ended and pod.finished_at is not None)
    return min((end for end in ends if end > known), default=now)


def _failure(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus) -> Failure:
    progress = status.progress
    where = f"step {progress.step}" + (f" of {progress.total_steps}" if progress.total_steps else "")
    saved = status.checkpoints[-1] if status.checkpoints else None
    if saved is None:
        kept = "nothing was saved yet"
        hint = "Start a job with a larger spec.budget."
    elif storage.lasts(observed, spec):
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
        message=f"the budget of {name(spec)} is spent at {where}; {kept}",
        hint=hint,
        attempt=status.attempt,
        reason="BudgetSpent",
        failed_at=observed.now,
    )


def stopping(status: TrainingJobStatus) -> bool:
    """Return whether the workers are on their way out because the budget is spent."""
    return status.budget_spent_at is not None and status.phase not in (Phase.FAILED, Phase.SUCCEEDED)
