"""When to read the warning events of a pod that does not start: only there does a kubelet say which volume it cannot mount.

Events are not watched: a cluster has too many of them, and only those about a late pod matter.
"""

from datetime import datetime, timedelta

from trainwright.api.status import TrainingJobStatus
from trainwright.plan.types import Pass

PATIENCE = timedelta(seconds=10)
"""How long a pod may take to start before its events are read."""


def due(current: Pass, status: TrainingJobStatus) -> datetime | None:
    """Return when to read the events of a pod that its kubelet is starting; None while there is no such pod."""
    if status.waiting_since is None or _starting(current) is None:
        return None
    return status.waiting_since + PATIENCE


def subject(current: Pass, status: TrainingJobStatus) -> str | None:
    """Return the UID of the pod whose events to read now, or None if none is late."""
    moment = due(current, status)
    return _starting(current) if moment is not None and current.now >= moment else None


def _starting(current: Pass) -> str | None:
    """Return the UID of the first pod that its kubelet is starting."""
    return next((pod.uid for pod in current.pods.in_order if pod.live and pod.starting), None)
