"""When to ask the cluster why a pod does not start: which volume it cannot mount, a kubelet tells in events alone.

Events are not watched: a cluster has too many, and only those about a pod that is late matter.
"""

from datetime import datetime, timedelta

from trainwright.api.status import TrainingJobStatus
from trainwright.plan.membership import Crew
from trainwright.plan.types import Observed

PATIENCE = timedelta(seconds=10)
"""How long a pod may take to start before anybody asks."""


def due(status: TrainingJobStatus, crew: Crew) -> datetime | None:
    """Return when to ask about a pod that its kubelet is at work on; None while there is none."""
    if status.waiting_since is None or _starting(crew) is None:
        return None
    return status.waiting_since + PATIENCE


def subject(observed: Observed, status: TrainingJobStatus, crew: Crew) -> str | None:
    """Return the UID of the pod to ask about, or None if nothing is to be asked yet."""
    moment = due(status, crew)
    return _starting(crew) if moment is not None and observed.now >= moment else None


def _starting(crew: Crew) -> str | None:
    """Return the UID of the first pod that its kubelet is at work on."""
    return next((pod.uid for _, pod in sorted(crew.newest.items()) if pod.live and pod.starting), None)
