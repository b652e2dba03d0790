"""What ranks tell each other outside of training: bytes, over connections that nothing else uses.

A save goes on in a thread while training goes on in another; each needs its own connections. Messages are bytes that the
callers parse (JSON): object collectives would unpickle whatever arrives.
"""

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks:
    """All ranks that take part in something, seen from one of them; by default this one alone."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """Connect with the others; all of them must call this at the same point.

        Args:
            rank: Number of this process.
            size: Number of processes; with one, nothing is connected.
        """
        self.rank = rank
        self.size = size
        self._group = cast("dist.ProcessGroup", dist.new_group(backend="gloo")) if size > 1 else None

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, content: bytes) -> list[bytes]:
        """Return what every rank has called this with, in the order of the ranks."""
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
