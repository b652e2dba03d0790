"""A change of workers.count or minCount in a job that has begun: all save and go, and those asked for now start again.

The status holds what the pods of its attempt were made for, and is written before any of them is touched: whatever passes
may be lost, the pods follow. It is no failure, and counts as none.
"""

from datetime import datetime

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Phase, TrainingJobStatus, Workers
from trainwright.plan.membership import Crew, is_over
from trainwright.plan.types import Event

_AT_WORK = (Phase.STARTING, Phase.RUNNING)
_BEGUN = (*_AT_WORK, Phase.RESTARTING)


def fitted(spec: TrainingJobSpec, workers: Workers, formerly: int | None = None) -> Workers:
    """Return the workers as the status is to hold them when pods are made for this spec.

    Args:
        spec: The job.
        workers: As they were.
        formerly: How many there were before a change that is being carried out.
    """
    asked = spec.workers
    return workers.model_copy(
        update={
            "desired": asked.count,
            "minimum": asked.min_count,
            "formerly": formerly,
            "training": None,
            "absent": [],
            "replaced": 0,
        }
    )


def decide(spec: TrainingJobSpec, status: TrainingJobStatus, now: datetime) -> TrainingJobStatus:
    """Return the status: with a new attempt of all workers if the present pods were made for others than are asked for.

    How few may train matters when workers wait for each other, so a change of that alone disturbs nobody who trains. Nor is
    it worth what was learnt: where that goes with worker 0's pod, it waits until all start again anyway.
    """
    made_for, asked = status.workers, spec.workers
    at_work = status.phase in _AT_WORK
    resized = made_for.desired != asked.count
    if not resized:
        forfeits = status.progress.step > 0 and not spec.checkpoint.durable
        if made_for.minimum == asked.min_count or at_work or forfeits:
            return status
    attempt = status.attempt + 1
    # While the others train, only a worker that they go on without is waited for.
    next_start = None if at_work else status.next_start
    begins = now if next_start is None else max(now, next_start)
    return status.model_copy(
        update={
            "phase": Phase.RESTARTING if status.phase in _BEGUN else Phase.PENDING,
            "attempt": attempt,
            "oldest_attempt": attempt,
            "next_start": next_start,
            "waiting_since": begins,
            "workers": fitted(spec, made_for, made_for.desired if resized else made_for.formerly),
            "progress": status.progress.model_copy(update={"ended_launch": status.progress.launch}),
        }
    )


def describe(status: TrainingJobStatus, crew: Crew, now: datetime) -> str:
    """Return what is being changed, and who is still on the way out because of it."""
    leaving = sum(not is_over(pod, now) for pod in crew.superseded)
    still = f"; {leaving} still saving and stopping" if leaving else ""
    return f"scaling from {status.workers.formerly} to {status.workers.desired} workers{still}"


def events(before: TrainingJobStatus, status: TrainingJobStatus) -> tuple[Event, ...]:
    """Return the one Event of a change that begins."""
    size, was = status.workers, before.workers
    if size.formerly is None or (size.formerly, size.desired) == (was.formerly, was.desired):
        return ()
    return (Event("Scaled", f"workers.count changed from {size.formerly} to {size.desired}: all save and start again"),)
