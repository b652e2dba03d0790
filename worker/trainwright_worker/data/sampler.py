"""Which samples make up a step: shuffled anew every epoch, the same on every rank, cut into equal shares.

The order is a function of seed and epoch and the place in it a function of the step, so the position of a checkpoint is
the step itself and nothing needs replaying. A step takes the next global batch. The last step of an epoch takes what is
left, rounded down to a multiple of the number of ranks, so that every rank always holds the same share and the mean of
the ranks' gradients is the gradient of the batch; up to `size - 1` samples sit out an epoch, others each time.

Samples of large remote files lie in blocks that are fetched whole. There, blocks are shuffled, and samples within windows of
some blocks, so that a block is needed once and not for long; and ranks take from a batch what lies together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from trainwright_worker.errors import UserError

WINDOW_BLOCKS: Final = 16
"""Blocks whose samples are mixed with each other."""
_EPOCH_STRIDE = 1_000_003
"""Keeps the seeds of different epochs apart from those of neighbouring job seeds."""


@dataclass(frozen=True)
class Sampler:
    """The order of training samples.

    Attributes:
        samples: Size of the training split.
        batch: Samples per step over all ranks.
        rank: Number of this process.
        size: Number of processes.
        seed: Seed of the shuffling.
        blocks: Block in which each sample lies ([samples] int64), from 0; None if all are equally near.
    """

    samples: int
    batch: int
    rank: int
    size: int
    seed: int
    blocks: Tensor | None = None

    def __post_init__(self) -> None:
        if self.samples < self.batch:
            raise UserError(
                f"spec.training.globalBatchSize: {self.batch}, but the training split has only {self.samples} samples",
                "lower it, or hold out less with spec.dataset.split",
            )

    @property
    def steps_per_epoch(self) -> int:
        """Steps after which every sample was seen, but for the few that do not divide by the number of ranks."""
        return self.samples // self.batch + (self._leftover > 0)

    @property
    def _leftover(self) -> int:
        return self.samples % self.batch // self.size * self.size

    def samples_before(self, step: int) -> int:
        """Return how many samples all ranks have seen when `step` steps are done."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        per_epoch = (self.steps_per_epoch - (self._leftover > 0)) * self.batch + self._leftover
        return epochs * per_epoch + steps * self.batch

    def order(self, epoch: int) -> Tensor:
        """Return the order of all samples in `epoch` ([samples] int64)."""
        seed = (self.seed * _EPOCH_STRIDE + epoch) % 2**63
        generator = torch.Generator().manual_seed(seed)
        if self.blocks is None:
            return torch.randperm(self.samples, generator=generator)
        places = torch.randperm(int(self.blocks.max()) + 1, generator=generator)
        windows = places[self.blocks] // WINDOW_BLOCKS
        return (windows + torch.rand(self.samples, generator=generator, dtype=torch.float64)).argsort(stable=True)

    def shares(self, step: int, device: torch.device) -> Iterator[Tensor]:
        """Yield this rank's indices ([share] int64 on `device`) for every step of the epoch that `step` lies in.

        Args:
            step: Steps done; the first share is that of the next step.
            device: Where the samples lie.
        """
        epoch, first = divmod(step, self.steps_per_epoch)
        order = self.order(epoch).to(device)
        for position in range(first, self.steps_per_epoch):
            begin = position * self.batch
            whole = self.batch if begin + self.batch <= self.samples else self._leftover
            batch, share = order[begin : begin + whole], whole // self.size
            if self.blocks is not None:
                batch = batch[self.blocks[batch].argsort(stable=True)]
            yield batch[self.rank * share : (self.rank + 1) * share]
