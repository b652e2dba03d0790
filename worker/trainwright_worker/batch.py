"""A batch of samples: the inputs of the model, and the targets that it is to predict."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor, nn

IGNORED: Final = -100
"""Target that no loss and no metric counts."""

INPUT: Final = "inputs"
MASK: Final = "mask"
TARGET: Final = "target"

Tensors = dict[str, Tensor]
"""Tensors by name; the first dimension of each counts samples."""


@dataclass(frozen=True)
class Batch:
    """A batch of samples.

    Attributes:
        inputs: The arguments of the model, the main input first. Most batches have `inputs`: float32 features [batch,
            features], images [batch, channels, height, width] or frames [batch, frames, features]; or int64 token ids
            [batch, length]. Padded sequences have `mask`, too: bool [batch, length], true where the input is real.
        targets: The values to predict. Most batches have `target`: int64 classes [batch]; float32 values [batch,
            targets]; or int64 tokens [batch, length], with `IGNORED` where nothing is to be predicted.
    """

    inputs: Tensors
    targets: Tensors

    @classmethod
    def of(cls, inputs: Tensor, target: Tensor, mask: Tensor | None = None) -> Self:
        """Return a batch with one input, its mask if it is padded, and one target."""
        return cls({INPUT: inputs} if mask is None else {INPUT: inputs, MASK: mask}, {TARGET: target})

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.input)

    @property
    def input(self) -> Tensor:
        """The main input."""
        return next(iter(self.inputs.values()))

    @property
    def mask(self) -> Tensor | None:
        """Which positions of a padded sequence are real; None if all are."""
        return self.inputs.get(MASK)

    @property
    def target(self) -> Tensor:
        """The target of a batch that has one."""
        return self.targets[TARGET]

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with every tensor changed by a function."""
        inputs = {name: change(value) for name, value in self.inputs.items()}
        return Batch(inputs, {name: change(value) for name, value in self.targets.items()})

    def with_input(self, value: Tensor) -> "Batch":
        """Return the batch with another main input."""
        return Batch({**self.inputs, next(iter(self.inputs)): value}, self.targets)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`; from pinned memory without waiting for the copy."""
        if self.input.device == device:
            return self
        return self.map(lambda value: value.to(device, non_blocking=True))

    def slice(self, begin: int, end: int) -> "Batch":
        """Return the samples from `begin` to `end`, exclusive, without copying."""
        return self.map(lambda value: value[begin:end])

    def select(self, indices: Tensor) -> "Batch":
        """Return the samples at `indices` ([k] int64), copied."""
        return self.map(lambda value: value[indices])

    def split(self, size: int) -> Iterator["Batch"]:
        """Yield the samples in parts of `size`; the last may be smaller."""
        for begin in range(0, len(self), size):
            yield self.slice(begin, begin + size)


def run_model(model: nn.Module, batch: Batch) -> Tensor:
    """Return the model's outputs for a batch.

    The main input is passed by position, since other libraries give it different names.
    """
    main, *others = batch.inputs
    outputs: Tensor = model(batch.inputs[main], **{name: batch.inputs[name] for name in others})
    return outputs
