"""Which evaluation is the best, and whether there is still progress."""

from trainwright.api.spec import EarlyStoppingSpec
from trainwright.api.spec.evaluation import LOWER_IS_BETTER, MetricName
from trainwright.api.status import Evaluation
from trainwright_worker.checkpoint.state import Patience


def is_better(evaluation: Evaluation, best: Evaluation | None, stopping: EarlyStoppingSpec | None) -> bool:
    """Whether an evaluation is better than the best so far.

    Early stopping, if there is any, says by which metric; else it is accuracy, if there is one, and then the loss.
    """
    if best is None:
        return True
    by = [MetricName.ACCURACY, MetricName.LOSS] if stopping is None else [stopping.metric]
    return _score(evaluation, by) > _score(best, by)


def _score(evaluation: Evaluation, metrics: list[MetricName]) -> list[float]:
    """Return the named figures so that larger is better; one that was not measured counts as 0."""
    found = evaluation.metrics
    return [found.get(name, 0.0) * (-1 if name in LOWER_IS_BETTER else 1) for name in metrics]


def lose_patience(patience: Patience, spec: EarlyStoppingSpec, metrics: dict[str, float]) -> bool:
    """Take in an evaluation and return whether training should end.

    Args:
        patience: What is known so far; changed.
        spec: What counts as progress, and how long to wait for it.
        metrics: The figures of the evaluation.
    """
    value = metrics[spec.metric]
    gain = 0.0 if patience.best is None else value - patience.best
    if spec.metric in LOWER_IS_BETTER:
        gain = -gain
    if patience.best is None or gain > spec.min_delta:
        patience.best, patience.waited = value, 0
    else:
        patience.waited += 1
    patience.over = patience.waited >= spec.patience
    return patience.over
