"""Losses: a sum over what counts, and how much counts, so that parts of a batch and shares of ranks add up exactly."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from trainwright_worker.batch import IGNORED, Batch


@dataclass(frozen=True)
class Loss:
    """A loss.

    Attributes:
        total: Maps the model's outputs for a batch (float32) to the sum of its losses, a scalar.
        count: Maps a batch to how much the sum is over: its number of samples (int), where each counts alike; else a number
            that only its targets tell (int64 scalar), such as the tokens that are to be predicted.
    """

    total: Callable[[Tensor, Batch], Tensor]
    count: Callable[[Batch], int | Tensor] = len

    def mean(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss of a batch; 0 if nothing of it counts."""
        count = self.count(batch)
        return self.total(outputs, batch) / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))


def count_tokens(batch: Batch) -> Tensor:
    """Return how many positions of a batch have a target (int64 scalar)."""
    return (batch.target != IGNORED).sum()


def cross_entropy(count: Callable[[Batch], int | Tensor], smoothing: float = 0.0, known: int | None = None) -> Loss:
    """Return the cross-entropy of logits [..., classes] with classes [...].

    Args:
        count: What the sum is over.
        smoothing: Share of each target that is spread over all classes.
        known: How many of the outputs stand for a class, if a model may have more and the others shall not count.
    """
    return Loss(partial(_cross_entropy, smoothing=smoothing, known=known), count)


def _cross_entropy(outputs: Tensor, batch: Batch, smoothing: float, known: int | None) -> Tensor:
    outputs = outputs if known is None else outputs[..., :known]
    return F.cross_entropy(
        outputs.flatten(0, -2), batch.target.flatten(), ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
