"""The start deadline: if the workers do not all run in time, their pods are given back and started again later.

Without gang scheduling, two jobs may each get half of the nodes that either of them needs, and wait for each other. Each
gives its half back when its start deadline passes, and tries again after a wait of a different length: the first one back
gets all.
"""

import zlib
from datetime import datetime, timedelta

from trainwright.api.exit_codes import FailureClass
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Failure, Phase, TrainingJobStatus
from trainwright.plan import elastic, remedies, unseen
from trainwright.plan.types import Pass

GIVEN_UP = "StartDeadlineExceeded"
"""Reason of a job whose workers did not all run in time."""
_SHORTEST_WAIT = 10
_LONGEST_WAIT = 300
_NAMED = 10


def deadline(spec: TrainingJobSpec, status: TrainingJobStatus) -> datetime | None:
    """Return when the workers are given back if they do not all run by then."""
    if spec.start_deadline_seconds is None or status.waiting_since is None:
        return None
    return status.waiting_since + timedelta(seconds=spec.start_deadline_seconds)


def enforce_deadline(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status; if the deadline has passed, with a new attempt of all workers after a wait."""
    limit = deadline(current.spec, status)
    if limit is None or current.now < limit or status.phase not in (Phase.PENDING, Phase.RESTARTING):
        return status
    if elastic.enough(current):
        return status
    attempt = status.attempt + 1
    again = current.now + _wait(current.job.uid, status.starts_given_up)
    return status.changed(
        attempt=attempt,
        oldest_attempt=attempt,
        starts_given_up=status.starts_given_up + 1,
        next_start=again,
        waiting_since=again,
        failure=_failure(current, status),
        progress=status.progress.changed(ended_launch=status.progress.launch),
    )


def _wait(uid: str, given_up: int) -> timedelta:
    """Return the wait before the next try: it doubles, and a part of it differs from job to job and from try to try.

    Two jobs that gave up at the same moment must not come back at the same moment, again and again.
    """
    seconds = min(_SHORTEST_WAIT * 2 ** min(given_up, 16), _LONGEST_WAIT)
    own = zlib.crc32(f"{uid}/{given_up}".encode()) / 2**32
    return timedelta(seconds=seconds * (1 + own))


def _failure(current: Pass, status: TrainingJobStatus) -> Failure:
    absent = [index for index in range(current.spec.workers.count) if not current.pods.runs(index)]
    named = ", ".join(str(index) for index in absent[:_NAMED])
    more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
    who = f"worker{'' if len(absent) == 1 else 's'} {named}{more} of {current.spec.workers.count}"
    why = f": {_reason(current, absent)}" if _reason(current, absent) else ""
    return Failure(
        category=FailureClass.INFRASTRUCTURE,
        message=f"{who} did not run within {current.spec.start_deadline_seconds} s (spec.startDeadlineSeconds){why}",
        hint="It tries again after a wait. Ask for less, or wait for other jobs to end.",
        attempt=status.attempt,
        worker=absent[0] if absent else None,
        reason=GIVEN_UP,
        failed_at=current.now,
    )


def _reason(current: Pass, absent: list[int]) -> str:
    """Return why the first of the absent workers that has a reason does not run."""
    if current.observed.rejection:
        return remedies.with_remedy(current.spec, "", current.observed.rejection)
    pods = (current.pods.newest.get(index) for index in absent)
    waits = (pod.obstacle or pod.waiting for pod in pods if pod is not None)
    reason, message = next(filter(None, waits), ("", ""))
    return (
        f"{reason}: {remedies.with_remedy(current.spec, reason, message)}".rstrip(": ")
        or unseen.describe(current)
        or ""
    )
