"""Detects workers that have stopped working although their pods run, and replaces them as hung workers.

A hung rank is found and restarted by its worker's own agent. If the agent itself was stopped, only the operator can notice.
There are two signs of that, and each needs a report from another worker of the same job: worker 0 reports who does not come to the
rendezvous; or worker 0 sends no reports while another worker reports that it waits for it. Silence alone proves nothing,
because the operator or the network may be at fault; then the status only says that reports are overdue.

A job from which no report has ever come may not run our worker at all (`unheard`).

Workers wait for each other without end. So a worker that cannot reach worker 0 is replaced too, once both have run for long.
"""

from datetime import datetime, timedelta
from typing import Final

from trainwright.api.exit_codes import FailureClass
from trainwright.api.status import Failure, Phase, TrainingJobStatus
from trainwright.api.worker import Absentee
from trainwright.plan import elastic, restart, unheard
from trainwright.plan.pods import REPLACED, Pod
from trainwright.plan.types import Pass

RETURN: Final = timedelta(seconds=60)
"""How long a worker that took part before may take to come back to the rendezvous: its agent has nothing else to do."""
ARRIVAL: Final = timedelta(seconds=300)
"""How long a worker may take from its pod's start to the rendezvous: imports can be slow."""
_SILENCE: Final = (timedelta(seconds=180), 10)
"""How long worker 0 may send no report, as a time and as a number of report intervals; the longer one counts."""
_FRESH: Final = (timedelta(seconds=75), 5)
"""How old the report of a waiting worker may be, likewise: such workers report twice a minute."""
CUT_OFF: Final = timedelta(seconds=600)
"""How long a worker may be unable to reach worker 0 while both run: DNS and network policies take time to take effect."""

_HINT: Final = (
    "something has stopped the worker's main process (kill -STOP, a frozen container), or its node is overloaded"
)
_CUT_OFF_HINT: Final = "look at DNS, at the network policies of the namespace, and at the network between these nodes"


def decide(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus | None:
    """Return the status with a restart decided if a worker hangs as a whole or is cut off; None if none does."""
    if not _should_meet(current, status):
        return None
    failure = (
        _missing(current, status)
        or _silent(current, status)
        or _cut_off(current, status)
        or unheard.failure(current, status)
    )
    if failure is None:
        return None
    return restart.answer(current, status, failure, {failure.worker or 0})


def _should_meet(current: Pass, status: TrainingJobStatus) -> bool:
    """Return whether enough workers run to train, and no pod that was replaced before is still live."""
    if any(pod.live for pod in current.pods.superseded):
        # The status remembers a single pod to replace: naming another one now would take this one back.
        return False
    if status.phase in (Phase.PENDING, Phase.RESTARTING):
        return elastic.enough(current)
    return status.phase in (Phase.STARTING, Phase.RUNNING)


def is_fresh(current: Pass, at: datetime) -> bool:
    """Return whether a waiting worker's report that arrived at this time still counts."""
    return current.now - at <= _at_least(current, _FRESH)


def _at_least(current: Pass, span: tuple[timedelta, int]) -> timedelta:
    shortest, intervals = span
    return max(shortest, intervals * timedelta(seconds=current.observed.settings.report_interval))


def _missing(current: Pass, status: TrainingJobStatus) -> Failure | None:
    """Return the failure of a worker that does not come to the rendezvous although its pod runs, or never will again.

    A worker that has done its work ends well. It is needed again if worker 0 fails after that, while it shuts down.
    """
    received, now = current.received, current.now
    if received is None or received.report.waiting is None or not is_fresh(current, received.at):
        return None
    waiting = received.report.waiting
    waited = timedelta(seconds=waiting.seconds) + (now - received.at)
    for absentee in waiting.missing:
        pod = current.pods.newest.get(absentee.worker)
        if pod is None or waited < RETURN:
            continue
        if pod.phase == "Succeeded":
            what = f"{pod.place} has ended, but worker 0 had to start again and waits for it"
            return _failure(pod, FailureClass.INFRASTRUCTURE, what, None, status, now)
        if _runs(pod) and _overdue(current, pod, absentee):
            return _hang(pod, f"has not come to the rendezvous for {waited.total_seconds():.0f} s", status, now)
    return None


def _overdue(current: Pass, pod: Pod, absentee: Absentee) -> bool:
    """Return whether the worker should have come by now; one that reports why it cannot is alive."""
    own = current.waiting_reports.get(pod.index)
    if own is not None and is_fresh(current, own.at):
        return False
    came_before = absentee.attempt == pod.attempt
    return came_before or (pod.started_at is not None and current.now - pod.started_at >= ARRIVAL)


def _silent(current: Pass, status: TrainingJobStatus) -> Failure | None:
    """Return the failure of worker 0 if it sends no reports any more while another worker reports that it waits for it."""
    leader, now = current.pods.newest.get(0), current.now
    last = _last_heard(current, status)
    if leader is None or not _runs(leader) or last is None or now - last < _at_least(current, _SILENCE):
        return None
    others = current.waiting_reports.values()
    confirmed = any(other.at > last and is_fresh(current, other.at) for other in others)
    if not confirmed or (leader.started_at is not None and now - leader.started_at < ARRIVAL):
        return None
    return _hang(leader, f"has sent no report for {(now - last).total_seconds():.0f} s", status, now)


def _cut_off(current: Pass, status: TrainingJobStatus) -> Failure | None:
    """Return the failure of a worker that cannot reach worker 0; of worker 0 if several others run and none of them can."""
    leader = current.pods.newest.get(0)
    others = [pod for pod in current.pods.newest.values() if pod.index != 0 and _runs(pod)]
    cut = [pod for pod in others if leader is not None and _runs(leader) and _out_of_reach(current, pod, leader)]
    if leader is None or not cut:
        return None
    complaint = current.waiting_reports[cut[0].index].report.message
    what = f"{cut[0].place} {complaint}, although both have run for {CUT_OFF.total_seconds():.0f} s"
    # Whether a worker complains matters, not for how long, because workers report at different moments.
    content = [pod for pod in others if not _complains(current, pod)]
    culprit = leader if len(others) > 1 and not content else cut[0]
    if culprit is leader:
        what = f"no other worker reaches {leader.place}: {what}"
    return _failure(culprit, FailureClass.INFRASTRUCTURE, what, _CUT_OFF_HINT, status, current.now)


def _out_of_reach(current: Pass, pod: Pod, leader: Pod) -> bool:
    """Return whether a worker still reports, long after both have begun to run, that it never reached worker 0."""
    if not _complains(current, pod) or pod.started_at is None or leader.started_at is None:
        return False
    return current.waiting_reports[pod.index].at - max(pod.started_at, leader.started_at) >= CUT_OFF


def _complains(current: Pass, pod: Pod) -> bool:
    """Return whether a worker reports that it cannot reach worker 0."""
    own = current.waiting_reports.get(pod.index)
    return own is not None and bool(own.report.message) and is_fresh(current, own.at)


def _last_heard(current: Pass, status: TrainingJobStatus) -> datetime | None:
    """Return when worker 0's last report arrived, or since when one could have; None if no reports are received."""
    observed = current.observed
    if observed.listening_since is None:
        return None
    newest = None if observed.received is None else observed.received.at
    times = (observed.listening_since, newest, status.progress.reported_at)
    return max(time for time in times if time is not None)


def _runs(pod: Pod) -> bool:
    """Return whether the cluster takes the pod to run, on a node that responds."""
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
