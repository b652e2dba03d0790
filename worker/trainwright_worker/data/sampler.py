"""Selects the samples of each step: shuffled every epoch, the same on every rank, divided into one share per rank.

The order depends only on seed and epoch, and the position only on the step, so a checkpoint needs no other position and
nothing is replayed. A step takes the next global batch; the last one of an epoch takes the rest. None of this depends
on the number of ranks, so a job can resume with more or fewer. If a batch is not divisible by it, the first ranks get
one sample more, and `Share` holds the numbers for weighting the losses of ranks.

Samples of large remote files are in blocks that are downloaded as a whole. In this case, blocks are shuffled, and
samples are shuffled within windows of a few blocks, so that each block is needed once and only for a short time. Ranks
take adjacent samples of a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from trainwright.api.spec import TrainingJobSpec
from trainwright_worker.errors import UserError

WINDOW_BLOCKS: Final = 16
"""Number of blocks whose samples are shuffled together."""
_EPOCH_STRIDE = 1_000_003
"""Keeps the seeds of the epochs of a job distinct from those of jobs with similar seeds."""


@dataclass(frozen=True)
class Share:
    """One rank's share of a batch that is not divisible by the number of ranks.

    Attributes:
        own: Number of samples of this rank. If it is 0, the rank still gets one sample that must not count, because all
            ranks must run a forward pass.
        largest: Maximum number of samples of any rank.
        mean: Mean number of samples per rank.
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
        rank: Rank of this process.
        size: Number of ranks.
        seed: Seed of the shuffling.
        blocks: Block of each sample ([samples] int64), starting at 0; None if the data has no blocks.
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
        """Number of steps in which every sample is seen once."""
        return -(-self.samples // self.batch)

    def samples_before(self, step: int) -> int:
        """Return the number of samples that all ranks have seen after `step` steps."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * self.samples + steps * self.batch

    def share(self, step: int) -> Share | None:
        """Return this rank's share of the batch after `step` steps; None if all ranks have equally many samples."""
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
        """Yield this rank's indices ([share] int64 on `device`) for the remaining steps of the current epoch.

        Args:
            step: Number of steps done.
            device: Device of the samples.
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
        """Return the start and end of this rank's samples in a batch."""
        share, more = divmod(whole, self.size)
        first = self.rank * share + min(self.rank, more)
        return first, first + share + (self.rank < more)


def largest_pass(spec: TrainingJobSpec, batch: int) -> int:
    """Return the maximum number of samples per forward pass: a micro-batch, or a process's share with all workers.

    With fewer workers (elastic jobs), shares grow, but passes do not, so memory stays the same.

    Args:
        spec: The job.
        batch: Samples per step over all ranks.
    """
    share = -(-batch // spec.world_size)
    return min(share, spec.training.micro_batch_size or share)
