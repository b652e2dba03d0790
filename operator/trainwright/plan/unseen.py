"""Pods that no scheduler looks at: nothing in the cluster says so, because the scheduler that would does not exist or run."""

from datetime import datetime, timedelta
from typing import Final

from trainwright.plan.pods import Pod
from trainwright.plan.types import Pass

REASON: Final = "SchedulerSilent"
PATIENCE: Final = timedelta(seconds=30)
"""How long a scheduler may take to place a pod or to say why it cannot: usually less than a second."""


def due(current: Pass) -> datetime | None:
    """Return when to mention that a pod is not looked at; None while there is no such pod."""
    return min((pod.created_at + PATIENCE for pod in _unseen(current) if pod.created_at is not None), default=None)


def describe(current: Pass) -> str | None:
    """Return that no scheduler has looked at some pods for long, and what to do about it; None if there are none."""
    late = [pod for pod in _unseen(current) if pod.created_at is not None and current.now >= pod.created_at + PATIENCE]
    if not late:
        return None
    name, seconds = late[0].scheduler or "default-scheduler", PATIENCE.total_seconds()
    spec = current.spec
    if spec.workers.scheduler_name is not None:
        remedy = "correct spec.workers.schedulerName, or have that scheduler installed"
    elif spec.scheduling.gang_names_a_scheduler:
        remedy = f"spec.scheduling.gang: {spec.scheduling.gang} needs it: have it installed, or correct the field"
    else:
        remedy = "it is the cluster's own: have it looked at"
    who = f"{len(late)} of {spec.workers.count} workers"
    return f"{who}: no scheduler called {name} has placed them or said why not for more than {seconds:.0f} s; {remedy}"


def _unseen(current: Pass) -> list[Pod]:
    return [pod for pod in current.pods.in_order if pod.unseen]
