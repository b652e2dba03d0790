"""A worker whose pod runs although nothing runs in it any more: it is replaced as one that hangs.

A hung rank is found and restarted by its worker's own agent. Nobody does that for an agent that was stopped itself. Two
signs betray it, and each needs a witness of the same job. Worker 0 says who does not come to the rendezvous; or worker 0
says nothing, while another worker says that it waits for it. Silence without such a witness may be the operator's own, or the
network's, whatever other jobs are heard of; then it is only told that reports are overdue.

Workers wait for each other without end. So one that cannot reach worker 0 is replaced too, once both have run for long.
"""

from datetime import datetime, timedelta
from typing import Final

from trainwright.api.exit_codes import FailureClass
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Failure, Phase, TrainingJobStatus
from trainwright.api.worker import Absentee, WorkerReport
from trainwright.plan import elastic, restart
from trainwright.plan.membership import REPLACED, Crew
from trainwright.plan.types import Observed, Pod

RETURN: Final = timedelta(seconds=60)
"""How long a worker that took part before may take to come back to the rendezvous: its agent has nothing else to do."""
ARRIVAL: Final = timedelta(seconds=300)
"""How long a worker may take from its pod's start to the rendezvous: imports can be slow."""
_SILENCE: Final = (timedelta(seconds=180), 10)
"""How long worker 0 may say nothing at all, and in how many report intervals at least."""
_FRESH: Final = (timedelta(seconds=75), 5)
"""How old the word of a witness may be: those that wait speak twice a minute. Likewise in report intervals."""
CUT_OFF: Final = timedelta(seconds=600)
"""How long a worker may be unable to reach worker 0 while both run: names and policies of a network take their time."""

_HINT: Final = (
    "something has stopped the worker's main process (kill -STOP, a frozen container), or its node is overloaded"
)
_CUT_OFF_HINT: Final = "look at DNS, at the network policies of the namespace, and at the network between these nodes"


def enforce(
    observed: Observed,
    spec: TrainingJobSpec,
    status: TrainingJobStatus,
    crew: Crew,
    heard: tuple[WorkerReport, datetime] | None,
) -> TrainingJobStatus:
    """Return the status with a restart decided if a worker hangs as a whole, or is cut off.

    Args:
        observed: What the pass saw.
        spec: The job.
        status: The status so far.
        crew: The pods that count.
        heard: The newest report that counts, with the time of its arrival.
    """
    if not _should_meet(spec, status, crew):
        return status
    failure = (
        _missing(observed, status, crew, heard) or _silent(observed, status, crew) or _cut_off(observed, status, crew)
    )
    if failure is None:
        return status
    return restart.answer(observed, spec, status, failure, {failure.worker or 0})


def _should_meet(spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> bool:
    """Return whether so many workers run that they should get on, and the last one to be replaced is on its way out."""
    if any(pod.live for pod in crew.superseded):
        # The status remembers a single one: to name another now would be to take this one back.
        return False
    if status.phase in (Phase.PENDING, Phase.RESTARTING):
        return elastic.enough(spec, crew)
    return status.phase in (Phase.STARTING, Phase.RUNNING)


def is_fresh(observed: Observed, at: datetime) -> bool:
    """Return whether what was said at this time still holds."""
    return observed.now - at <= _at_least(_FRESH, observed)


def _at_least(span: tuple[timedelta, int], observed: Observed) -> timedelta:
    shortest, intervals = span
    return max(shortest, intervals * timedelta(seconds=observed.settings.report_interval))


def _missing(
    observed: Observed, status: TrainingJobStatus, crew: Crew, heard: tuple[WorkerReport, datetime] | None
) -> Failure | None:
    """Return the failure of a worker that does not come to the rendezvous although its pod runs, or never will again.

    One whose work was done has ended well. It is needed again if worker 0 fails after that, on its way out.
    """
    waiting, at = (None, observed.now) if heard is None else (heard[0].waiting, heard[1])
    if waiting is None or not is_fresh(observed, at):
        return None
    waited = timedelta(seconds=waiting.seconds) + (observed.now - at)
    for absentee in waiting.missing:
        pod = crew.newest.get(absentee.worker)
        if pod is not None and pod.phase == "Succeeded" and waited >= RETURN:
            what = f"{pod.place} has ended, but worker 0 had to start again and waits for it"
            return _failure(pod, FailureClass.INFRASTRUCTURE, what, None, status, observed.now)
        if pod is not None and _runs(pod) and waited >= RETURN and _overdue(observed, pod, absentee):
            return _hang(
                pod, f"has not come to the rendezvous for {waited.total_seconds():.0f} s", status, observed.now
            )
    return None


def _overdue(observed: Observed, pod: Pod, absentee: Absentee) -> bool:
    """Return whether the worker should have come by now: one that says why it cannot is alive."""
    word = observed.words.get(pod.index)
    if word is not None and is_fresh(observed, word[1]):
        return False
    came_before = absentee.attempt == pod.attempt
    return came_before or (pod.started_at is not None and observed.now - pod.started_at >= ARRIVAL)


def _silent(observed: Observed, status: TrainingJobStatus, crew: Crew) -> Failure | None:
    """Return the failure of worker 0 if it says nothing any more, while another worker says that it waits for it."""
    leader, now = crew.newest.get(0), observed.now
    last = _last_heard(observed, status)
    if leader is None or not _runs(leader) or last is None or now - last < _at_least(_SILENCE, observed):
        return None
    vouched = any(at > last and is_fresh(observed, at) for _, at in observed.words.values())
    if not vouched or (leader.started_at is not None and now - leader.started_at < ARRIVAL):
        return None
    return _hang(leader, f"has said nothing for {(now - last).total_seconds():.0f} s", status, now)


def _cut_off(observed: Observed, status: TrainingJobStatus, crew: Crew) -> Failure | None:
    """Return the failure of a worker that cannot reach worker 0; of worker 0 if several others run and none of them can."""
    leader, others = crew.newest.get(0), [pod for pod in crew.newest.values() if pod.index != 0 and _runs(pod)]
    cut = [pod for pod in others if leader is not None and _runs(leader) and _out_of_reach(observed, pod, leader)]
    if leader is None or not cut:
        return None
    complaint = observed.words[cut[0].index][0].message
    what = f"{cut[0].place} {complaint}, although both have run for {CUT_OFF.total_seconds():.0f} s"
    # Who complains at all counts, not for how long: each says so at moments of its own.
    mute = [pod for pod in others if not _complains(observed, pod)]
    culprit = leader if len(others) > 1 and not mute else cut[0]
    if culprit is leader:
        what = f"no other worker reaches {leader.place}: {what}"
    return _failure(culprit, FailureClass.INFRASTRUCTURE, what, _CUT_OFF_HINT, status, observed.now)


def _out_of_reach(observed: Observed, pod: Pod, leader: Pod) -> bool:
    """Return whether a worker that has never reached worker 0 says so, long after both have begun to run."""
    if not _complains(observed, pod) or pod.started_at is None or leader.started_at is None:
        return False
    return observed.words[pod.index][1] - max(pod.started_at, leader.started_at) >= CUT_OFF


def _complains(observed: Observed, pod: Pod) -> bool:
    """Return whether a worker says that it cannot reach worker 0."""
    word, at = observed.words.get(pod.index, (None, observed.now))
    return word is not None and bool(word.message) and is_fresh(observed, at)


def _last_heard(observed: Observed, status: TrainingJobStatus) -> datetime | None:
    """Return when worker 0 was last heard of, or since when it could have been; None if nobody listens."""
    if observed.listening_since is None:
        return None
    times = (observed.listening_since, observed.report_at, status.progress.reported_at)
    return max(time for time in times if time is not None)


def _runs(pod: Pod) -> bool:
    """Return whether the cluster believes that the pod runs, and its node answers."""
    return pod.phase == "Running" and not pod.deleting and not pod.silent


def _hang(pod: Pod, what: str, status: TrainingJobStatus, now: datetime) -> Failure:
    message = f"{pod.place} hangs: it {what}, although its pod runs"
    return _failure(pod, FailureClass.HANG, message, _HINT, status, now)


def _failure(
    pod: Pod, category: FailureClass, message: str, hint: str | None, status: TrainingJobStatus, now: datetime
) -> Failure:
    return Failure(
        category=category,
        message=message,
        hint=hint,
        attempt=status.attempt,
        worker=pod.index,
        pod=pod.name,
        node=pod.node,
        reason=REPLACED,
        failed_at=now,
    )
