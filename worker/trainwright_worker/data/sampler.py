"""Which samples make up a step: shuffled anew every epoch, the same on every rank, cut into one share per rank.

The order is a function of seed and epoch and the place in it a function of the step, so the position of a checkpoint is
the step itself and nothing needs replaying. A step takes the next global batch, the last one of an epoch what is left. None
of this depends on the number of ranks, so a job may go on with more or fewer. Where a batch does not divide by it the first
ranks hold one sample more, and `Share` says how the ranks' losses are to be weighted.

Samples of large remote files lie in blocks that are fetched whole. There, blocks are shuffled, and samples within windows of
some blocks, so that a block is needed once and not for long; and ranks take from a batch what lies together.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from trainwright.api.spec import TrainingJobSpec
from trainwright_worker.errors import UserError

WINDOW_BLOCKS: Final = 16
"""Blocks whose samples are mixed with each other."""
_EPOCH_STRIDE = 1_000_003
"""Keeps the seeds of different epochs apart from those of neighbouring job seeds."""


@dataclass(frozen=True)
class Share:
    """One rank's part of a batch that does not divide by the number of ranks.

    Attributes:
        own: Samples of this rank. With 0 it still gets one, which must not count: all ranks pass something.
        largest: Most samples that any rank has.
        mean: Samples per rank on average.
    """

    own: int
    largest: int
    mean: float


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
        """Steps after which every sample was seen."""
        return -(-self.samples // self.batch)

    def samples_before(self, step: int) -> int:
        """Return how many samples all ranks have seen when `step` steps are done."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * self.samples + steps * self.batch

    def share(self, step: int) -> Share | None:
        """Return this rank's part of the batch that follows `step` steps; None if all ranks have as many samples."""
        begin = step % self.steps_per_epoch * self.batch
        whole = min(self.batch, self.samples - begin)
        if whole % self.size == 0:
            return None
        first, last = self._bounds(whole)
        return Share(own=last - first, largest=-(-whole // self.size), mean=whole / self.size)

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
            batch = order[position * self.batch : (position + 1) * self.batch]
            if self.blocks is not None:
                batch = batch[self.blocks[batch].argsort(stable=True)]
            first, last = self._bounds(len(batch))
            yield batch[first:last] if last > first else batch[:1]

    def _bounds(self, whole: int) -> tuple[int, int]:
        """Return where this rank's samples of a batch begin and end."""
        share, more = divmod(whole, self.size)
        first = self.rank * share + min(self.rank, more)
        return first, first + share + (self.rank < more)


def largest_pass(spec: TrainingJobSpec, batch: int) -> int:
    """Return the most samples that a process passes at once: a micro-batch, or its share when all workers are there.

    With fewer workers shares grow, but not the memory that a pass takes.

    Args:
        spec: The job.
        batch: Samples per step over all ranks.
    """
    share = -(-batch // spec.world_size)
    return min(share, spec.training.micro_batch_size or share)
