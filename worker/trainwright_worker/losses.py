"""What is minimised: the loss of a batch, plus the penalties of the spec."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from trainwright.api.spec import RegularizationSpec
from trainwright.api.spec.objective import LossName
from trainwright_worker.batch import Batch

Loss = Callable[[Tensor, Batch], Tensor]
"""Maps the model's outputs for a batch (float32) to their mean loss, a scalar."""


def make_loss(name: LossName) -> Loss:
    """Return the loss of that name, averaged over the batch (and over the targets, for mse)."""
    compare = F.cross_entropy if name == LossName.CROSS_ENTROPY else F.mse_loss
    return lambda outputs, batch: compare(outputs, batch.targets)


def make_penalty(spec: RegularizationSpec, parameters: Iterable[torch.nn.Parameter]) -> Callable[[], Tensor] | None:
    """Return a function that computes the L1 and L2 penalties of the current weights, or None if there are none.

    Biases are left alone: shrinking them costs accuracy and prevents nothing.
    """
    weights = [parameter for parameter in parameters if parameter.dim() > 1]
    if not (spec.l1 or spec.l2):
        return None

    def penalty() -> Tensor:
        total = torch.zeros((), device=weights[0].device)
        for weight in weights:
            if spec.l1:
                total = total + spec.l1 * weight.abs().sum()
            if spec.l2:
                total = total + spec.l2 / 2 * weight.square().sum()
        return total

    return penalty
