"""What the workers reported, as progress and metrics; truthful across restarts."""

import math
from datetime import datetime, timedelta
from typing import Any, Final

from trainwright.api.amounts import is_endless
from trainwright.api.figures import Evaluation, Measurements, StepTime, Straggler
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Metrics, Phase, Progress, TrainingJobStatus
from trainwright.api.worker import WorkerPhase, WorkerReport
from trainwright.plan import elastic, placement, postmortem, restart
from trainwright.plan.pods import WorkerPods
from trainwright.plan.types import Observed, Received

_SELDOM_MEASURED: Final = ("loss", "learning_rate", "grad_norm", "evaluation", "best")


def newest_report(observed: Observed, status: TrainingJobStatus, pods: WorkerPods) -> Received | None:
    """Return the newest report that counts: the last one received, or the one in worker 0's termination message."""
    newest = observed.received
    leader = pods.newest.get(0)
    if leader is not None and leader.termination is not None and leader.termination.report is not None:
        last = leader.termination.report
        if last.newer_than(None if newest is None else newest.report):
            newest = Received(last, leader.finished_at or observed.now)
    # A restart may have been decided because of another worker while worker 0 was writing the results.
    ended = None if leader is not None and leader.phase == "Succeeded" else status.progress.ended_launch
    if newest is None or newest.report.uid != observed.job.uid:
        return None
    return None if newest.report.attempt < status.oldest_attempt or newest.report.launch == ended else newest


def record(
    received: Received, status: TrainingJobStatus, spec: TrainingJobSpec | None, pods: WorkerPods
) -> TrainingJobStatus:
    """Return the status with what the report says. A new launch without a restart of ours counts as a restart.

    Args:
        received: The report.
        status: The status so far.
        spec: The job; None if it cannot be read, and then no straggler's worker is known.
        pods: The job's pods.
    """
    report, before = received.report, status.progress
    status = status.changed(preflight=report.preflight or status.preflight)
    if _is_preparing(report):
        # The launch has not read its checkpoint yet, so it does not know the steps done: those known so far still hold.
        heard = before.changed(reported_at=received.at.replace(microsecond=0), stale=False)
        # After a restart inside the pods, the workers are still needed to compare this launch with the one before.
        settled = report.phase == WorkerPhase.PREPARING and before.launch == before.ended_launch
        workers = elastic.record(report, status.workers) if settled else status.workers
        return status.changed(progress=heard, workers=workers)
    relaunched = before.launch is not None and report.launch != before.launch
    if relaunched and before.launch != before.ended_launch and not elastic.has_grown(report, status.workers):
        status = _relaunched(received, status, pods)
    replayed = max(0, before.step - (report.resumed_from_step or 0)) if relaunched else 0
    return status.changed(
        progress=_progress(received, before, before.replayed_steps + replayed),
        workers=elastic.record(report, status.workers),
        metrics=_metrics(report, _still_true(report, status), [] if spec is None else _locate(report, spec, pods)),
        checkpoints=report.checkpoints or status.checkpoints,
        results=report.results or status.results,
    )


def _relaunched(received: Received, status: TrainingJobStatus, pods: WorkerPods) -> TrainingJobStatus:
    """Return the status after the workers have restarted their processes themselves, with the reason."""
    cause = received.report.relaunched
    if cause is None or cause.category is None:
        return restart.count(status, None)
    failure = postmortem.in_place(cause, pods, status.attempt, received.at)
    return placement.record_failure(restart.count(status, cause.category), failure).changed(failure=failure)


def _is_preparing(report: WorkerReport) -> bool:
    return report.phase in (WorkerPhase.RENDEZVOUS, WorkerPhase.PREPARING) and report.step == 0


def _progress(received: Received, before: Progress, replayed: int) -> Progress:
    report, at = received.report, received.at
    total = report.total_steps or before.total_steps
    remaining = _remaining_seconds(report)
    return Progress(
        percent=0 if not total else min(100, 100 * report.step // total),
        step=report.step,
        total_steps=total,
        epoch=report.epoch,
        total_epochs=report.total_epochs or before.total_epochs,
        samples=report.samples,
        eta=None if remaining is None else (at + timedelta(seconds=remaining)).replace(microsecond=0),
        remaining_seconds=remaining,
        replayed_steps=replayed,
        resumed_from_step=report.resumed_from_step,
        launch=report.launch,
        ended_launch=before.ended_launch,
        reported_at=at.replace(microsecond=0),
    )


def _remaining_seconds(report: WorkerReport) -> int | None:
    if report.total_steps is None or not report.steps_per_second:
        return None
    seconds = max(0, report.total_steps - report.step) / report.steps_per_second
    return None if is_endless(seconds) else math.ceil(seconds)


def _locate(report: WorkerReport, spec: TrainingJobSpec, pods: WorkerPods) -> list[Straggler]:
    """Return stragglers with their worker and its node, which only the operator knows."""
    members = [index for index in range(spec.workers.count) if index not in report.absent]
    located = []
    for straggler in report.stragglers:
        position = straggler.rank // spec.workers.processes_per_worker
        # There may be fewer workers by now than when the report was sent.
        worker = members[position] if position < len(members) else None
        pod = None if worker is None else pods.newest.get(worker)
        node = None if pod is None else pod.node
        factor = float(f"{straggler.factor:.3g}")
        located.append(straggler.changed(worker=worker, node=node, factor=factor))
    return located


def _still_true(report: WorkerReport, status: TrainingJobStatus) -> Metrics:
    """Return the metrics known so far, without those of a step if a launch resumes from a later step, of which none is known.

    It may be the last step of the job, and then they would be taken for those of the end.
    """
    resumes = report.launch != status.progress.launch and report.step > status.progress.step
    return status.metrics.changed(loss=None, learning_rate=None, grad_norm=None) if resumes else status.metrics


def _metrics(report: WorkerReport, before: Metrics, stragglers: list[Straggler]) -> Metrics:
    """Return the newest values; what is measured only now and then stays until it is measured again."""
    measured = {name: _rounded(getattr(report, name)) for name in Measurements.model_fields}
    kept = {name: getattr(before, name) for name in _SELDOM_MEASURED if measured[name] is None}
    return Metrics(**{**measured, **kept, "stragglers": stragglers})


def _rounded(value: Any) -> Any:
    """Return the value with fewer digits, since a status is read by people and stored many times: six, for a time three."""
    match value:
        case float():
            return float(f"{value:.6g}")
        case Evaluation():
            return value.changed(metrics={name: _rounded(figure) for name, figure in value.metrics.items()})
        case StepTime():
            return value.changed(**{name: float(f"{getattr(value, name):.3g}") for name in StepTime.model_fields})
        case _:
            return value


def is_stepping(report: WorkerReport | None) -> bool:
    """Return whether the reporting launch has taken a step, or is past its last one."""
    if report is None:
        return False
    if report.phase in (WorkerPhase.PREDICTING, WorkerPhase.FINISHED):
        return True
    return not _is_preparing(report) and report.step > (report.resumed_from_step or 0)


def expect(observed: Observed, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status without an estimated end while training does not run, and with overdue reports marked while it does."""
    progress = status.progress
    if status.phase != Phase.RUNNING or status.budget_spent_at is not None:
        return status.changed(progress=progress.changed(eta=None, remaining_seconds=None, stale=False))
    overdue = stale_at(observed, status)
    return status.changed(progress=progress.changed(stale=overdue is not None and observed.now >= overdue))


def stale_at(observed: Observed, status: TrainingJobStatus) -> datetime | None:
    """Return when progress turns stale unless a report arrives; None when none is expected."""
    if status.phase != Phase.RUNNING or status.progress.reported_at is None:
        return None
    return status.progress.reported_at + timedelta(seconds=observed.settings.stale_after)
