"""The Kubernetes Events that a new status causes, besides those of a single policy."""

from trainwright.api.status import ConditionType, Phase, TrainingJobStatus
from trainwright.plan import placement, scale, start
from trainwright.plan.types import Event


def events(before: TrainingJobStatus, status: TrainingJobStatus) -> tuple[Event, ...]:
    """Return the Events that tell what has changed between two statuses."""
    scaled = scale.events(before, status)
    return (*(scaled or _milestones(before, status)), *placement.events(before, status), *_refusals(before, status))


def _refusals(before: TrainingJobStatus, status: TrainingJobStatus) -> tuple[Event, ...]:
    was, accepted = (each.condition(ConditionType.ACCEPTED) for each in (before, status))
    if accepted is None or accepted.status == "True" or (was is not None and was.message == accepted.message):
        return ()
    return (Event(accepted.reason, accepted.message, warning=True),)


def _milestones(before: TrainingJobStatus, status: TrainingJobStatus) -> tuple[Event, ...]:
    if status.starts_given_up > before.starts_given_up and status.failure is not None:
        return (Event(start.GIVEN_UP, status.failure.message, warning=True),)
    if status.phase == before.phase and status.restarts == before.restarts:
        return ()
    has_event = status.phase in (Phase.RESTARTING, Phase.FAILED, Phase.SUCCEEDED)
    if status.restarts > before.restarts and not has_event and status.failure != before.failure:
        return (Event("Relaunched", _relaunched(status), warning=True),)
    match status.phase:
        case Phase.SUCCEEDED:
            return (Event("Succeeded", status.message),)
        case Phase.FAILED:
            return (Event("Failed", status.message, warning=True),)
        case Phase.RESTARTING:
            return (Event("Restarting", status.message, warning=True),)
        case Phase.SUSPENDED:
            return (Event("Suspended", status.message),)
        case _:
            return ()


def _relaunched(status: TrainingJobStatus) -> str:
    cause = status.failure.message if status.failure else ""
    return f"{cause}; all processes were started again inside their pods: restart {status.restarts}"
