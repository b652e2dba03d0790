"""Training with fewer workers than asked for (workers.minCount): who is missing, why, and when that is enough.

The workers settle among themselves how many go on (the rendezvous at worker 0); the report of a launch says who takes no
part in it. A worker that is missing is replaced like any other, and joins in when it comes.
"""

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Phase, TrainingJobStatus, Workers
from trainwright.api.worker import WorkerPhase, WorkerReport
from trainwright.plan.membership import Crew
from trainwright.plan.types import Pod

REASON = "FewerWorkers"
_AT_WORK = (Phase.STARTING, Phase.RUNNING)
_NAMED = 3


def note(report: WorkerReport, workers: Workers) -> Workers:
    """Return the workers with those that the reporting launch goes on without."""
    return workers.model_copy(
        update={
            "training": workers.desired - len(report.absent),
            "absent": sorted(report.absent),
            "replaced": 0 if grown(report, workers) else workers.replaced,
        }
    )


def grown(report: WorkerReport, workers: Workers) -> bool:
    """Return whether a launch has more workers than the one before: the others saved and made room, nothing failed."""
    return len(report.absent) < len(workers.absent)


def aside(status: TrainingJobStatus) -> frozenset[int]:
    """Return the workers that training goes on without: what becomes of them disturbs nobody."""
    return frozenset(status.workers.absent) if status.phase in _AT_WORK else frozenset()


def complete(spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew, report: WorkerReport | None) -> bool:
    """Return whether every worker runs that the present launch needs: all, or those that have gone on without the others."""
    if crew.running >= spec.workers.count:
        return True
    # While they meet anew, nobody says yet who goes on without whom: what was so before still holds.
    absent = aside(status) if report is None or report.phase == WorkerPhase.RENDEZVOUS else frozenset(report.absent)
    return bool(absent) and all(crew.runs(index) for index in range(spec.workers.count) if index not in absent)


def enough(spec: TrainingJobSpec, crew: Crew) -> bool:
    """Return whether so many workers run that they may begin without the others."""
    least = spec.workers.min_count
    return least is not None and crew.runs(0) and crew.running >= least


def share(status: TrainingJobStatus, crew: Crew, rejection: str | None) -> str:
    """Return how many train, and why the others do not, if there are others: ` with 3 of 4 workers (worker 2: ...)`."""
    workers = status.workers
    if workers.training is None or workers.training >= workers.desired:
        return ""
    named = "; ".join(f"worker {index}: {_why(crew.newest.get(index), rejection)}" for index in workers.absent[:_NAMED])
    more = f"; {len(workers.absent) - _NAMED} more" if len(workers.absent) > _NAMED else ""
    return f" with {workers.training} of {workers.desired} workers ({named}{more})"


def _why(pod: Pod | None, rejection: str | None) -> str:
    if pod is None:
        return f"the cluster refuses to create it: {rejection}" if rejection else "waits to be replaced"
    if pod.waiting is not None:
        reason, message = pod.waiting
        return f"{reason}, {message}" if message else reason
    if pod.deleting:
        return "is on its way out"
    return "waits to be let in" if pod.phase == "Running" else pod.phase.lower()


def shortage(status: TrainingJobStatus, crew: Crew, rejection: str | None) -> str:
    """Return what a condition says of training with fewer workers; nothing if all take part."""
    told = share(status, crew, rejection) if status.phase == Phase.RUNNING else ""
    return f"training goes on{told}" if told else ""
