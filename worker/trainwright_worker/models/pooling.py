"""Pooling of a sequence into one vector. Padding is at the end of a sequence and is always ignored."""

import torch
from torch import Tensor, nn


def lengths(mask: Tensor) -> Tensor:
    """Return the number of real positions of each sequence ([batch] int64), and 1 for an empty sequence."""
    return mask.sum(1).clamp(min=1)


def last_real(outputs: Tensor, mask: Tensor | None) -> Tensor:
    """Return the features of the last real position: [batch, features] of [batch, length, features]."""
    if mask is None:
        return outputs[:, -1]
    rows = torch.arange(
        outputs.shape[0], device=outputs.device
    )  # Not len(outputs), which would fix the batch size of an export.
    return outputs[rows, lengths(mask) - 1]


def mean_of_real(outputs: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over the real positions: [batch, features] of [batch, length, features]."""
    if mask is None:
        return outputs.mean(1)
    return (outputs * mask.unsqueeze(2)).sum(1) / lengths(mask).unsqueeze(1)


class MeanOfReal(nn.Module):
    """The mean over the real positions of a sequence, as a layer."""

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map [batch, length, features] to [batch, features]."""
        return mean_of_real(inputs, mask)
