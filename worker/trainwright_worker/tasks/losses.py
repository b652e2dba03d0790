"""Losses, as a sum and a count, so that the losses of parts of a batch and of ranks can be combined exactly."""

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
        count: Maps a batch to the number of terms of the sum: the number of samples (int), or a number that depends on
            the targets (int64 scalar), such as the number of predicted tokens.
    """

    total: Callable[[Tensor, Batch], Tensor]
    count: Callable[[Batch], int | Tensor] = len

    def mean(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss of a batch; 0 if the count is 0."""
        count = self.count(batch)
        return self.total(outputs, batch) / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))


def count_tokens(batch: Batch) -> Tensor:
    """Return the number of positions of a batch with a target (int64 scalar)."""
    return (batch.target != IGNORED).sum()


def cross_entropy(count: Callable[[Batch], int | Tensor], smoothing: float = 0.0, known: int | None = None) -> Loss:
    """Return the cross-entropy of logits [..., classes] with classes [...].

    Args:
        count: Maps a batch to the number of terms of the sum.
        smoothing: Fraction of each target that is distributed over all classes.
        known: Number of outputs that stand for a class, to exclude additional outputs; None to use all outputs.
    """
    return Loss(partial(_cross_entropy, smoothing=smoothing, known=known), count)


def _cross_entropy(outputs: Tensor, batch: Batch, smoothing: float, known: int | None) -> Tensor:
    outputs = outputs if known is None else outputs[..., :known]
    return F.cross_entropy(
        outputs.flatten(0, -2), batch.target.flatten(), ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
