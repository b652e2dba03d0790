"""Early stopping: whether the validation split still shows progress."""

from trainwright.api.spec import EarlyStoppingSpec
from trainwright.api.spec.evaluation import LOWER_IS_BETTER
from trainwright_worker.state import Patience


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
