"""A change of workers.count or minCount in a job that has begun: all workers save and stop, and as many as asked for start.

The status holds what the pods of its attempt were made for, and is written before any pod is touched: whichever pass is
lost, the pods follow the status. The change does not count as a failure.
"""

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Phase, TrainingJobStatus, Workers
from trainwright.plan.types import Event, Pass

_AT_WORK = (Phase.STARTING, Phase.RUNNING)
_BEGUN = (*_AT_WORK, Phase.RESTARTING)


def made_for(spec: TrainingJobSpec, workers: Workers, formerly: int | None = None) -> Workers:
    """Return the workers as the status holds them when pods are made for this spec.

    Args:
        spec: The job.
        workers: The workers in the status so far.
        formerly: How many there were before a change that is being carried out.
    """
    return workers.changed(
        desired=spec.workers.count,
        minimum=spec.workers.min_count,
        formerly=formerly,
        training=None,
        absent=[],
        replaced=0,
    )


def decide(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus | None:
    """Return the status with a new attempt of all workers if the pods were made for another number of workers, else None.

    minCount matters only when workers wait for each other, so a change of it alone does not disturb a job that trains. Nor
    does it discard what was learnt: if that would be lost with worker 0's pod, the change waits until all start again anyway.
    """
    workers, asked = status.workers, current.spec.workers
    at_work = status.phase in _AT_WORK
    resized = workers.desired != asked.count
    if not resized:
        discards = status.progress.step > 0 and not current.spec.checkpoint.durable
        if workers.minimum == asked.min_count or at_work or discards:
            return None
    return start_again(current, status, workers.desired if resized else workers.formerly)


def start_again(current: Pass, status: TrainingJobStatus, formerly: int | None = None) -> TrainingJobStatus:
    """Return the status with a new attempt of all workers, made for the spec as it is now. It counts as no failure.

    Args:
        current: The pass.
        status: The status so far.
        formerly: How many workers there were, if their number changes.
    """
    workers, at_work = status.workers, status.phase in _AT_WORK
    attempt = status.attempt + 1
    # While the others train, the backoff is that of a worker they go on without, and does not concern them.
    next_start = None if at_work else status.next_start
    begins = current.now if next_start is None else max(current.now, next_start)
    return status.changed(
        phase=Phase.RESTARTING if status.phase in _BEGUN else Phase.PENDING,
        attempt=attempt,
        oldest_attempt=attempt,
        next_start=next_start,
        waiting_since=begins,
        workers=made_for(current.spec, workers, formerly),
        progress=status.progress.changed(ended_launch=status.progress.launch),
    )


def describe(current: Pass, status: TrainingJobStatus) -> str:
    """Return which change is being carried out, and how many former workers are still stopping."""
    leaving = sum(not pod.is_over(current.now) for pod in current.pods.superseded)
    still = f"; {leaving} still saving and stopping" if leaving else ""
    return f"scaling from {status.workers.formerly} to {status.workers.desired} workers{still}"


def events(before: TrainingJobStatus, status: TrainingJobStatus) -> tuple[Event, ...]:
    """Return the one Event of a change that begins."""
    size, was = status.workers, before.workers
    if size.formerly is None or (size.formerly, size.desired) == (was.formerly, was.desired):
        return ()
    return (Event("Scaled", f"workers.count changed from {size.formerly} to {size.desired}: all save and start again"),)
