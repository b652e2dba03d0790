"""What a new status weighs: how long it may wait to be written, what waits for it, and what it must rest on.

Everything that asks whether a status is a decision asks here.
"""

from enum import IntEnum

from trainwright.api.status import Phase, TrainingJobStatus


class Weight(IntEnum):
    """How much a new status weighs against the one before."""

    PROGRESS = 0
    """Further progress, or nothing new: one of many, written now and then."""
    NEWS = 1
    """Something that people or programs wait for: written soon."""
    DECISION = 2
    """Something that further steps follow from: written without delay, and before anything else is decided."""


def weigh(before: TrainingJobStatus, after: TrainingJobStatus) -> Weight:
    """Return the weight of the new status."""
    if moves_pods(before, after) or counts(before, after) or _turns(before) != _turns(after):
        return Weight.DECISION
    return Weight.NEWS if _words(before) != _words(after) else Weight.PROGRESS


def moves_pods(before: TrainingJobStatus, after: TrainingJobStatus) -> bool:
    """Return whether pods are to be deleted or created for what was decided.

    Then the status is written first: whatever is done to pods follows from it, also after a crash in between.
    """
    return _pods(before) != _pods(after)


def counts(before: TrainingJobStatus, after: TrainingJobStatus) -> bool:
    """Return whether something is charged to the job or ends it, which a belated watch must never be the reason for.

    The first start is nothing of the kind: nothing came before it.
    """
    begun = before.attempt > 0
    return (begun and _attempts(before) != _attempts(after)) or _charges(before) != _charges(after)


def _attempts(status: TrainingJobStatus) -> tuple[object, ...]:
    return status.attempt, status.oldest_attempt


def _charges(status: TrainingJobStatus) -> tuple[object, ...]:
    return status.restarts, status.finished_at


def _pods(status: TrainingJobStatus) -> tuple[object, ...]:
    return *_attempts(status), status.budget_spent_at, status.phase == Phase.SUSPENDED


def _turns(status: TrainingJobStatus) -> tuple[object, ...]:
    return status.phase, status.observed_generation


def _words(status: TrainingJobStatus) -> tuple[object, ...]:
    return status.reason, status.failure, [(condition.type, condition.status) for condition in status.conditions]
