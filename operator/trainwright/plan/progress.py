"""What the workers reported, as progress and metrics; truthful across restarts."""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from trainwright.api.figures import StepTime, Straggler
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Evaluation, Metrics, Phase, Progress, TrainingJobStatus
from trainwright.api.worker import WorkerPhase, WorkerReport
from trainwright.plan import elastic, placement, postmortem, restart
from trainwright.plan.membership import Crew
from trainwright.plan.types import Observed
from trainwright.plan.words import ENDLESS


def newest_report(observed: Observed, status: TrainingJobStatus, crew: Crew) -> tuple[WorkerReport, datetime] | None:
    """Return the newest report that counts, with its time: the last one sent, or the one worker 0 left at its end."""
    report, at = observed.report, observed.report_at
    leader = crew.newest.get(0)
    if leader is not None and leader.termination is not None and leader.termination.report is not None:
        last = leader.termination.report
        if last.newer_than(report):
            report, at = last, leader.finished_at or observed.now
    # A restart may have been decided because of another worker while this one was writing the results.
    ended = None if leader is not None and leader.phase == "Succeeded" else status.progress.ended_launch
    if report is None or at is None or report.uid != observed.job.uid:
        return None
    return None if report.attempt < status.oldest_attempt or report.launch == ended else (report, at)


def record(
    report: WorkerReport, at: datetime, status: TrainingJobStatus, spec: TrainingJobSpec | None, crew: Crew
) -> TrainingJobStatus:
    """Return the status with what the report says. A new launch that no restart of ours explains counts as one.

    Without a spec that can be read nobody knows which worker a rank belongs to.
    """
    before = status.progress
    if _preparing(report):
        # It has not read its checkpoint yet, and so knows nothing of the steps done: the steps before still stand.
        heard = before.model_copy(update={"reported_at": at.replace(microsecond=0), "stale": False})
        # One that was started again in its pods is still to be compared with the launch before: whether it has grown.
        said = report.phase == WorkerPhase.PREPARING and before.launch == before.ended_launch
        return status.model_copy(
            update={
                "progress": heard,
                "workers": elastic.note(report, status.workers) if said else status.workers,
                "preflight": report.preflight or status.preflight,
            }
        )
    relaunched = before.launch is not None and report.launch != before.launch
    in_place = relaunched and before.launch != before.ended_launch and not elastic.grown(report, status.workers)
    replayed = max(0, before.step - (report.resumed_from_step or 0)) if relaunched else 0
    return status.model_copy(
        update={
            **(_relaunched(report, at, status, crew) if in_place else {}),
            "progress": _progress(report, at, before, before.replayed_steps + replayed),
            "workers": elastic.note(report, status.workers),
            "preflight": report.preflight or status.preflight,
            "metrics": _metrics(report, status.metrics, [] if spec is None else _locate(report, spec, crew)),
            "checkpoints": report.checkpoints or status.checkpoints,
            "results": report.results or status.results,
        }
    )


def _relaunched(report: WorkerReport, at: datetime, status: TrainingJobStatus, crew: Crew) -> dict[str, Any]:
    """Return the counters after the workers have started their processes again by themselves, and why they did."""
    cause = report.relaunched
    if cause is None or cause.category is None:
        return restart.counted(status, None)
    failure = postmortem.in_place(cause, crew, status.attempt, at)
    return {**restart.counted(status, cause.category), **placement.blame(status, failure), "failure": failure}


def _preparing(report: WorkerReport) -> bool:
    return report.phase in (WorkerPhase.RENDEZVOUS, WorkerPhase.PREPARING) and report.step == 0


def _progress(report: WorkerReport, at: datetime, before: Progress, replayed: int) -> Progress:
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
    return math.ceil(seconds) if seconds < ENDLESS else None


def _locate(report: WorkerReport, spec: TrainingJobSpec, crew: Crew) -> list[Straggler]:
    """Return stragglers with their worker and its node, which only the operator knows."""
    members = [index for index in range(spec.workers.count) if index not in report.absent]
    located = []
    for straggler in report.stragglers:
        seat = straggler.rank // spec.workers.processes_per_worker
        # There may be fewer workers by now than when this was sent.
        worker = members[seat] if seat < len(members) else None
        pod = None if worker is None else crew.newest.get(worker)
        node = None if pod is None else pod.node
        factor = float(f"{straggler.factor:.3g}")
        located.append(straggler.model_copy(update={"worker": worker, "node": node, "factor": factor}))
    return located


def _metrics(report: WorkerReport, before: Metrics, stragglers: list[Straggler]) -> Metrics:
    return Metrics(
        loss=_rounded(report.loss if report.loss is not None else before.loss),
        learning_rate=_rounded(report.learning_rate if report.learning_rate is not None else before.learning_rate),
        grad_norm=_rounded(report.grad_norm if report.grad_norm is not None else before.grad_norm),
        samples_per_second=_rounded(report.samples_per_second),
        steps_per_second=_rounded(report.steps_per_second),
        tokens_per_second=_rounded(report.tokens_per_second),
        mfu=_rounded(report.mfu),
        peak_memory_bytes=report.peak_memory_bytes,
        step_seconds=_rounded_parts(report.step_seconds),
        stragglers=stragglers,
        evaluation=_rounded_evaluation(report.evaluation) or before.evaluation,
        best=_rounded_evaluation(report.best) or before.best,
    )


def _rounded(value: float | None) -> float | None:
    """Return the value to six significant digits: a status is read by people and stored many times."""
    return None if value is None else float(f"{value:.6g}")


def _rounded_parts(seconds: StepTime | None) -> StepTime | None:
    if seconds is None:
        return None
    return seconds.model_copy(update={name: float(f"{getattr(seconds, name):.3g}") for name in StepTime.model_fields})


def _rounded_evaluation(evaluation: Evaluation | None) -> Evaluation | None:
    if evaluation is None:
        return None
    values: Mapping[str, float] = evaluation.metrics
    return evaluation.model_copy(update={"metrics": {name: float(f"{value:.6g}") for name, value in values.items()}})


def stepping(report: WorkerReport | None) -> bool:
    """Return whether the reporting launch has taken a step, or is past its last one."""
    if report is None:
        return False
    if report.phase in (WorkerPhase.PREDICTING, WorkerPhase.FINISHED):
        return True
    return not _preparing(report) and report.step > (report.resumed_from_step or 0)


def expect(observed: Observed, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status with what is expected of training: while it does not run there is no end in sight, nor silence."""
    if status.phase != Phase.RUNNING or status.budget_spent_at is not None:
        changes = {"eta": None, "remaining_seconds": None, "stale": False}
    else:
        overdue = stale_at(observed, status)
        changes = {"stale": overdue is not None and observed.now >= overdue}
    return status.model_copy(update={"progress": status.progress.model_copy(update=changes)})


def stale_at(observed: Observed, status: TrainingJobStatus) -> datetime | None:
    """Return when progress turns stale unless a report arrives; None when none is expected."""
    if status.phase != Phase.RUNNING or status.progress.reported_at is None:
        return None
    return status.progress.reported_at + timedelta(seconds=observed.settings.stale_after)
