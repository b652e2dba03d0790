"""Messages between ranks outside of the training loop, over separate connections.

A checkpoint is saved in one thread while training continues in another, so each needs its own connections. Messages are
bytes that the callers parse (JSON), because object collectives would unpickle received data.
"""

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """A set of communicating ranks, as seen from one of them; by default, only this rank."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """Connect to the other ranks, which must all call this at the same point.

        Args:
            rank: Rank of this process.
            size: Number of ranks; with one, there are no connections.
        """
        self.rank = rank
        self.size = size
        self._group = cast("dist.ProcessGroup", dist.new_group(backend="gloo")) if size > 1 else None

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, content: bytes) -> list[bytes]:
        """Return the `content` of every rank, in rank order. All ranks must call this."""
        if self.size == 1:
            return [content]
        lengths = self._gather(torch.tensor([len(content)], dtype=torch.int64))
        padded = torch.zeros(max(int(length) for length in lengths), dtype=torch.uint8)
        padded[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else 0
        parts = self._gather(padded)
        return [part[: int(length)].numpy().tobytes() for part, length in zip(parts, lengths, strict=True)]

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor, group=self._group)
        return parts
