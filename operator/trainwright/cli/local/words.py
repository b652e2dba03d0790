"""Wording of figures and causes, shared by the progress display and the summary."""

from trainwright.api.figures import Evaluation
from trainwright.api.spec.task import order_metrics
from trainwright.api.status import Failure, TrainingJobStatus

_SMALL, _LARGE = 0.001, 100
"""Below the one, four decimals say too little; from the other on, they would be invented."""
_SPLITS = {"validation": "val"}


def cause_of(failure: Failure) -> str:
    """Return which worker and rank failed, and how: `worker 1: rank 1 was ended by SIGKILL`."""
    message = failure.message
    if failure.worker is None or f"worker {failure.worker}" in message:
        return message
    rank = f", rank {failure.rank}" if failure.rank is not None and f"rank {failure.rank}" not in message else ""
    return f"worker {failure.worker}{rank}: {message}"


def figure(value: float) -> str:
    """Return a loss or metric with four decimals, as far as the six digits reach that a status holds: `0.9694`, `9493.32`.

    Zeros at the end stay, so that a line that changes in place keeps its width.
    """
    if 0 < abs(value) < _SMALL:
        return f"{value:#.4g}"
    return f"{value:.4f}" if abs(value) < _LARGE else f"{value:#.6g}".rstrip(".")


def metric_texts(evaluation: Evaluation | None) -> list[str]:
    """Return the metrics of an evaluation, the main one first: `accuracy 0.9710`, `loss 0.1043`, `auroc undefined`."""
    if evaluation is None:
        return []
    defined = [f"{name} {figure(evaluation.metrics[name])}" for name in order_metrics(evaluation.metrics)]
    return [*defined, *(f"{name} undefined" for name in evaluation.undefined or ())]


def main_metric(evaluation: Evaluation | None) -> list[str]:
    """Return the main metric with the split that it was measured on, if there is one: `val accuracy 0.9710`."""
    if evaluation is None:
        return []
    return [f"{_SPLITS.get(evaluation.split, evaluation.split)} {text}" for text in metric_texts(evaluation)[:1]]


class Restarts:
    """Says once of every restart why it happened and where training goes on.

    A display only shows how things are now: without this the step would fall back and nothing would say why.
    """

    def __init__(self) -> None:
        self._restarts: int | None = None
        self._failure: Failure | None = None

    def news(self, status: TrainingJobStatus) -> str | None:
        """Return what to say of a new status; None if it knows of no other restart or cause than the one before."""
        counted, known = self._restarts, self._failure
        self._restarts, self._failure = status.restarts, status.failure
        # Restarts of the run before it was resumed were shown then; the summary shows how the job ended.
        if counted is None or (status.phase is not None and status.phase.terminal):
            return None
        learnt = status.failure if status.failure != known else None
        if status.restarts <= counted and learnt is None:
            return None
        cause = cause_of(learnt) if learnt is not None else "the workers started their processes again"
        return f"{cause}; {_onwards(status)}"


def _onwards(status: TrainingJobStatus) -> str:
    """Return where training goes on: where the new launch says it has, or from the newest checkpoint until there is one."""
    progress = status.progress
    if progress.launch is not None and progress.launch != progress.ended_launch:
        step = progress.resumed_from_step
    else:
        step = status.checkpoints[-1].step if status.checkpoints else None
    return f"going on from step {step:,}" if step else "starting from the beginning"
