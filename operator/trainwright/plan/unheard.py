"""Workers that run and from which no report has ever come: their image may not contain Trainwright's worker.

A worker reports within seconds of its start, also while it waits for others or reads its data. But a missing report proves
nothing: the network or the operator may be at fault, and then training is better left alone. So the message asks first. The
workers count as failed only if another job of the same namespace has reported meanwhile, which proves that reports arrive.
"""

from datetime import datetime, timedelta
from typing import Final

from trainwright.api.exit_codes import FailureClass
from trainwright.api.status import Failure, Phase, TrainingJobStatus
from trainwright.plan import postmortem
from trainwright.plan.pods import REPLACED
from trainwright.plan.types import Pass

REASON: Final = "NoReport"
PATIENCE: Final = timedelta(seconds=120)
"""How long a worker may take from the start of its container to its first report: a slow disk makes imports slow."""
LIMIT: Final = timedelta(seconds=600)
"""After this long the workers count as failed, if reports are known to arrive."""


def due(current: Pass, status: TrainingJobStatus) -> tuple[datetime, ...]:
    """Return when to mention missing reports, and when to act on them; nothing if none is missing."""
    since = _unheard_since(current, status)
    return () if since is None else (since + PATIENCE, since + LIMIT)


def describe(current: Pass, status: TrainingJobStatus) -> str | None:
    """Return that no worker has ever reported, and what to check; None if it is too early to say."""
    since = _unheard_since(current, status)
    if since is None or current.now < since + PATIENCE:
        return None
    count, leader = current.spec.workers.count, current.pods.newest[0]
    return (
        f"{count} of {count} workers run, but none has reported for more than {PATIENCE.total_seconds():.0f} s: check that "
        f"the image {leader.image} starts Trainwright's worker (kubectl logs {leader.name}); if it does, its pods cannot "
        f"reach {current.observed.settings.reports_url}"
    )


def failure(current: Pass, status: TrainingJobStatus) -> Failure | None:
    """Return the failure of workers that should have reported long ago; None if they may still, or perhaps cannot."""
    since, heard = _unheard_since(current, status), current.observed.namespace_heard_at
    if since is None or current.now < since + LIMIT or heard is None or heard < since:
        return None
    leader = current.pods.newest[0]
    return Failure(
        category=FailureClass.INTERNAL,
        message=f"no worker has reported {LIMIT.total_seconds():.0f} s after the start, while other jobs of the namespace "
        f"have: the image {leader.image} does not seem to start Trainwright's worker",
        hint=postmortem.NO_WORKER_HINT,
        attempt=status.attempt,
        worker=0,
        pod=leader.name,
        node=leader.node,
        reason=REPLACED,
        failed_at=current.now,
    )


def _unheard_since(current: Pass, status: TrainingJobStatus) -> datetime | None:
    """Return since when worker 0 could have reported; None if a worker of this job has ever done so, or need not.

    Worker 0 also reports for workers that do not come. Processes of this machine are always workers.
    """
    observed, leader = current.observed, current.pods.newest.get(0)
    if observed.settings.reports_url is None or observed.settings.pods_leave_files or observed.listening_since is None:
        return None
    if observed.received is not None or observed.waiting_reports or status.progress.reported_at is not None:
        return None
    if status.phase != Phase.STARTING or leader is None or leader.started_at is None or leader.silent:
        return None
    return max(observed.listening_since, leader.started_at)
