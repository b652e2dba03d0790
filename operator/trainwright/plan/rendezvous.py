"""The message while all pods run and their workers have not met yet: how many have come, who is missing, and why."""

from trainwright.api.worker import Waiting
from trainwright.plan import unresponsive
from trainwright.plan.pods import WorkerPods
from trainwright.plan.types import Pass

REASON = "Rendezvous"
_NAMED = 3


def describe(current: Pass) -> str:
    """Return in one line how far the rendezvous is."""
    wanted = current.spec.workers.count
    waiting = None if current.report is None else current.report.waiting
    if waiting is not None:
        head = f"rendezvous {waiting.joined} of {waiting.wanted}: waiting for {_missing(waiting, current.pods)}"
    else:
        head = f"{wanted} of {wanted} workers run; waiting for them to meet and report"
    return "; ".join((head, *_complaints(current)))


def _missing(waiting: Waiting, pods: WorkerPods) -> str:
    named = [_name(absentee.worker, pods) for absentee in waiting.missing[:_NAMED]]
    more = waiting.wanted - waiting.joined - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _name(worker: int, pods: WorkerPods) -> str:
    pod = pods.newest.get(worker)
    return f"worker {worker}" if pod is None else pod.place


def _complaints(current: Pass) -> list[str]:
    """Return what other workers report: that of the first one, since the others usually report the same.

    A worker that has come to the rendezvous since its report has nothing to complain about any more.
    """
    waiting = None if current.report is None else current.report.waiting
    missing = None if waiting is None else {absentee.worker for absentee in waiting.missing}
    fresh = [
        (worker, received.report.message)
        for worker, received in sorted(current.waiting_reports.items())
        if received.report.message
        and unresponsive.is_fresh(current, received.at)
        and (missing is None or worker in missing)
    ]
    if not fresh:
        return []
    worker, message = fresh[0]
    return [f"worker {worker} {message}" + (f" (and {len(fresh) - 1} more)" if len(fresh) > 1 else "")]
