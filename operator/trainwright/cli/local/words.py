"""Wording of figures and causes, shared by the progress display and the summary."""

from trainwright.api.figures import Evaluation
from trainwright.api.spec.task import order_metrics
from trainwright.api.status import Failure, TrainingJobStatus

_SMALL, _LARGE = 0.001, 100
"""Smaller figures need more digits than four decimals; larger ones have fewer significant decimals than four."""
_SPLITS = {"validation": "val"}


def cause_of(failure: Failure) -> str:
    """Return which worker and rank failed, and how: `worker 1: rank 1 was ended by SIGKILL`."""
    message = failure.message
    if failure.worker is None or f"worker {failure.worker}" in message:
        return message
    rank = f", rank {failure.rank}" if failure.rank is not None and f"rank {failure.rank}" not in message else ""
    return f"worker {failure.worker}{rank}: {message}"


def figure(value: float) -> str:
    """Return a loss or metric with four decimals, or with the six significant digits that a status holds: `0.9694`, `9493.32`.

    Trailing zeros stay, so that a line that changes in place keeps its width.
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
    """Explains each restart once: its cause, and the step from which training continues.

    A display shows only the current state. Without this, the step number would go back without an explanation.
    """

    def __init__(self) -> None:
        self._restarts: int | None = None
        self._failure: Failure | None = None

    def news(self, status: TrainingJobStatus) -> str | None:
        """Return an explanation if the new status has another restart or cause than the previous one, else None."""
        counted, known = self._restarts, self._failure
        self._restarts, self._failure = status.restarts, status.failure
        # Restarts before a resume were shown at that time, and the summary shows how the job ended.
        if counted is None or (status.phase is not None and status.phase.terminal):
            return None
        learnt = status.failure if status.failure != known else None
        if status.restarts <= counted and learnt is None:
            return None
        cause = cause_of(learnt) if learnt is not None else "the workers started their processes again"
        return f"{cause}; {_onwards(status)}"


def _onwards(status: TrainingJobStatus) -> str:
    """Return from which step training continues: as the new launch reports or, before its first report, the newest checkpoint."""
    progress = status.progress
    if progress.launch is not None and progress.launch != progress.ended_launch:
        step = progress.resumed_from_step
    else:
        step = status.checkpoints[-1].step if status.checkpoints else None
    return f"going on from step {step:,}" if step else "starting from the beginning"
