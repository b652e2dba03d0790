"""Compares evaluations, and decides on early stopping."""

from collections.abc import Sequence

from trainwright.api.figures import Evaluation
from trainwright.api.spec import EarlyStoppingSpec
from trainwright.api.spec.evaluation import LOWER_IS_BETTER, MetricName
from trainwright_worker.checkpoint.state import Patience


def is_better(evaluation: Evaluation, best: Evaluation | None, metrics: Sequence[MetricName]) -> bool:
    """Whether an evaluation is better than the best so far, by the first metric in which they differ.

    A metric that is undefined in either of them is ignored.
    """
    if best is None:
        return True
    for metric in metrics:
        new, old = evaluation.metrics.get(metric), best.metrics.get(metric)
        if new is not None and old is not None and new != old:
            return (new < old) == (metric in LOWER_IS_BETTER)
    return False


def should_stop_early(patience: Patience, spec: EarlyStoppingSpec, metrics: dict[str, float]) -> bool:
    """Record an evaluation, and return whether training should stop early.

    An evaluation in which the metric is undefined is ignored.

    Args:
        patience: The state of early stopping; updated.
        spec: The minimum improvement, and the number of evaluations to wait for it.
        metrics: The metrics of the evaluation.
    """
    value = metrics.get(spec.metric)
    if value is None:
        return False
    gain = 0.0 if patience.best is None else value - patience.best
    if spec.metric in LOWER_IS_BETTER:
        gain = -gain
    if patience.best is None or gain > spec.min_delta:
        patience.best, patience.waited = value, 0
    else:
        patience.waited += 1
    patience.over = patience.waited >= spec.patience
    return patience.over
