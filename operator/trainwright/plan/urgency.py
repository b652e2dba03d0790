"""How urgent a new status is: how soon it must be written, what waits for the write, and whether it needs a fresh listing.

This is the only place that determines whether a status contains a decision.
"""

from enum import IntEnum

from trainwright.api.status import Phase, TrainingJobStatus


class Urgency(IntEnum):
    """How soon a new status must be written."""

    PROGRESS = 0
    """Progress, or nothing new: written now and then."""
    NEWS = 1
    """Something that people or programs wait for: written within about a second."""
    DECISION = 2
    """Something that further steps follow from: written at once, before anything else is decided."""


def urgency(before: TrainingJobStatus, after: TrainingJobStatus) -> Urgency:
    """Return how urgent the new status is."""
    if moves_pods(before, after) or counts(before, after) or _course(before) != _course(after):
        return Urgency.DECISION
    return Urgency.NEWS if _news(before) != _news(after) else Urgency.PROGRESS


def moves_pods(before: TrainingJobStatus, after: TrainingJobStatus) -> bool:
    """Return whether the decision makes pods be deleted or created.

    Then the status is written first: what is done to pods follows from it, also after a crash in between.
    """
    return _pods(before) != _pods(after)


def counts(before: TrainingJobStatus, after: TrainingJobStatus) -> bool:
    """Return whether a restart is charged to the job or the job ends: neither may be decided from an outdated watch.

    The first start does not count, since nothing came before it.
    """
    begun = before.attempt > 0
    return (begun and _attempts(before) != _attempts(after)) or _charges(before) != _charges(after)


def _attempts(status: TrainingJobStatus) -> tuple[object, ...]:
    return status.attempt, status.oldest_attempt


def _charges(status: TrainingJobStatus) -> tuple[object, ...]:
    return status.restarts, status.finished_at


def _pods(status: TrainingJobStatus) -> tuple[object, ...]:
    return *_attempts(status), status.budget_spent_at, status.phase == Phase.SUSPENDED


def _course(status: TrainingJobStatus) -> tuple[object, ...]:
    return status.phase, status.observed_generation


def _news(status: TrainingJobStatus) -> tuple[object, ...]:
    return status.reason, status.failure, [(condition.type, condition.status) for condition in status.conditions]
