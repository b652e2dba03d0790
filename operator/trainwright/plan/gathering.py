"""What is to be said while all pods run and their workers have not met yet: how many have, who is missing, and why."""

from trainwright.api.worker import Waiting, WorkerReport
from trainwright.plan import absence
from trainwright.plan.membership import Crew
from trainwright.plan.types import Observed

REASON = "Rendezvous"
_NAMED = 3


def describe(observed: Observed, wanted: int, crew: Crew, report: WorkerReport | None) -> str:
    """Return in one line how far the rendezvous is.

    Args:
        observed: What the pass saw.
        wanted: Workers of the job.
        crew: The pods that count.
        report: What worker 0 said last; None if it has said nothing.
    """
    waiting = None if report is None else report.waiting
    if waiting is not None:
        head = f"rendezvous {waiting.joined} of {waiting.wanted}: waiting for {_missing(waiting, crew)}"
    else:
        head = f"{wanted} of {wanted} workers run; waiting for them to meet and report"
    return "; ".join((head, *_complaints(observed)))


def _missing(waiting: Waiting, crew: Crew) -> str:
    named = [_place(absentee.worker, crew) for absentee in waiting.missing[:_NAMED]]
    more = waiting.wanted - waiting.joined - len(named)
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")


def _place(worker: int, crew: Crew) -> str:
    pod = crew.newest.get(worker)
    return f"worker {worker}" if pod is None else pod.place


def _complaints(observed: Observed) -> list[str]:
    """Return what other workers say: that of the first, which is that of the others as a rule."""
    fresh = [
        (worker, word.message)
        for worker, (word, at) in sorted(observed.words.items())
        if word.message and absence.is_fresh(observed, at)
    ]
    if not fresh:
        return []
    worker, message = fresh[0]
    return [f"worker {worker} {message}" + (f" (and {len(fresh) - 1} more)" if len(fresh) > 1 else "")]
