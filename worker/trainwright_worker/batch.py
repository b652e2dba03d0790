"""What a model sees at once: inputs, what is to be predicted, and which positions of a padded sequence are real."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

IGNORED: Final = -100
"""Target that no loss and no metric counts."""


@dataclass(frozen=True)
class Batch:
    """Samples that go through the model together.

    Attributes:
        inputs: float32 features [batch, features], images [batch, channels, height, width] or frames
            [batch, frames, features]; or int64 token ids [batch, length].
        targets: int64 classes [batch]; float32 values [batch, targets]; or int64 tokens [batch, length], with `IGNORED`
            where nothing is to be predicted.
        mask: bool [batch, length], true where the inputs are real; None if all are.
    """

    inputs: Tensor
    targets: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inputs)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`; from pinned memory without waiting for the copy."""
        if self.inputs.device == device:
            return self
        mask = None if self.mask is None else self.mask.to(device, non_blocking=True)
        return Batch(self.inputs.to(device, non_blocking=True), self.targets.to(device, non_blocking=True), mask)


def run_model(model: nn.Module, batch: Batch) -> Tensor:
    """Return the model's outputs for a batch; only models of sequences take a mask."""
    outputs: Tensor = model(batch.inputs) if batch.mask is None else model(batch.inputs, batch.mask)
    return outputs
