"""Training with fewer workers than asked for (workers.minCount): who is missing, why, and when that is enough.

The workers settle among themselves how many go on (the rendezvous at worker 0); the report of a launch says who takes no
part in it. A worker that is missing is replaced like any other, and joins in when it comes.
"""

from trainwright.api.status import Phase, TrainingJobStatus, Workers
from trainwright.api.worker import WorkerPhase, WorkerReport
from trainwright.plan.pods import Pod
from trainwright.plan.types import Pass

REASON = "FewerWorkers"
_AT_WORK = (Phase.STARTING, Phase.RUNNING)
_NAMED = 3


def record(report: WorkerReport, workers: Workers) -> Workers:
    """Return the workers with those that the reporting launch goes on without."""
    return workers.changed(
        training=workers.desired - len(report.absent),
        absent=sorted(report.absent),
        replaced=0 if has_grown(report, workers) else workers.replaced,
    )


def has_grown(report: WorkerReport, workers: Workers) -> bool:
    """Return whether a launch has more workers than the one before: then that one saved and ended without a failure."""
    return len(report.absent) < len(workers.absent)


def left_out(status: TrainingJobStatus) -> frozenset[int]:
    """Return the workers without which training continues, so that their failures do not affect the job."""
    return frozenset(status.workers.absent) if status.phase in _AT_WORK else frozenset()


def complete(current: Pass, status: TrainingJobStatus) -> bool:
    """Return whether every worker runs that the present launch needs: all, or those that have gone on without the others."""
    pods, report, count = current.pods, current.report, current.spec.workers.count
    if pods.running >= count:
        return True
    # During a rendezvous no report says yet who goes on without whom: what held before still holds.
    meeting = report is None or report.phase == WorkerPhase.RENDEZVOUS
    absent = left_out(status) if report is None or meeting else frozenset(report.absent)
    return bool(absent) and all(pods.runs(index) for index in range(count) if index not in absent)


def enough(current: Pass) -> bool:
    """Return whether so many workers run that they may begin without the others."""
    least = current.spec.workers.min_count
    return least is not None and current.pods.runs(0) and current.pods.running >= least


def share(current: Pass, status: TrainingJobStatus) -> str:
    """Return how many train, and why the others do not, if there are others: ` with 3 of 4 workers (worker 2: ...)`."""
    workers, rejection = status.workers, current.observed.rejection
    if workers.training is None or workers.training >= workers.desired:
        return ""
    named = "; ".join(
        f"worker {index}: {_why(current.pods.newest.get(index), rejection)}" for index in workers.absent[:_NAMED]
    )
    more = f"; {len(workers.absent) - _NAMED} more" if len(workers.absent) > _NAMED else ""
    return f" with {workers.training} of {workers.desired} workers ({named}{more})"


def _why(pod: Pod | None, rejection: str | None) -> str:
    if pod is None:
        return f"the cluster refuses to create it: {rejection}" if rejection else "waits to be replaced"
    if pod.waiting is not None:
        reason, message = pod.waiting
        return f"{reason}, {message}" if message else reason
    if pod.deleting:
        return "is shutting down"
    return "waits to be let in" if pod.phase == "Running" else pod.phase.lower()


def shortage(current: Pass, status: TrainingJobStatus) -> str:
    """Return the message of the condition Degraded while fewer workers train than asked for; empty if all take part."""
    text = share(current, status) if status.phase == Phase.RUNNING else ""
    return f"training goes on{text}" if text else ""
