"""Splits of token sequences: one text per sample, or blocks of a long text. They are read from memory-mapped files.

If the texts of a split need little memory, they are padded once and kept. Taking batches from one tensor uses less of
the CPU's caches, which makes a small LSTM 4 % faster.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import torch
from torch import Tensor

from trainwright_worker.batch import Batch
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.ragged import Array, Ragged
from trainwright_worker.data.table import Reading
from trainwright_worker.data.texts import TextStore

ROUNDING: Final = 8
"""Padded lengths are multiples of this, which limits the number of shapes and suits matrix units."""
_RESIDENT_BYTES: Final = 64 << 20
"""Maximum memory of a split of padded texts in every rank."""
_PADDED_AT_ONCE: Final = 4096
"""Number of texts that are padded at once."""


@dataclass(frozen=True)
class Padded:
    """All texts of a split in memory, padded to one length.

    Attributes:
        ids: [samples, length] int32.
        lengths: Number of tokens of each sample ([samples] int64).
    """

    ids: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class Tokens:
    """Texts as token ids, each with a target.

    Attributes:
        ids: Token ids of all texts of the source.
        rows: Indices of the texts of this split ([samples] int64).
        targets: Target of each sample.
        padding: Id of the padding token.
        max_length: Maximum number of tokens of a sample.
        fixed: Whether to pad every batch to the maximum length, rather than to its longest sample.
        origins: File and row of each sample.
        store: The original texts of the source.
    """

    ids: Ragged
    rows: Tensor
    targets: Tensor
    padding: int
    max_length: int
    fixed: bool = False
    origins: Origins | None = None
    store: TextStore | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (self.max_length,)

    @property
    def full(self) -> int:
        """Number of samples with the maximum number of tokens, which may have been truncated."""
        return int((self._lengths(self.rows.numpy()) >= self.max_length).sum())

    @property
    def reading(self) -> Reading:
        """How expensive reading is."""
        return Reading.INSTANT

    def take(self, indices: Tensor, epoch: int | None = None) -> Batch:  # noqa: ARG002 - nothing is augmented here
        """Return the samples at `indices` as ids [k, length] with their mask."""
        targets = self.targets.index_select(0, indices)
        if self._padded is None:
            rows = self.rows[indices].numpy()
            inputs, mask = self.ids.padded(rows, self._length_of(int(self._lengths(rows).max())), self.padding)
            return Batch.of(torch.from_numpy(inputs), targets, torch.from_numpy(mask))
        lengths = self._padded.lengths.index_select(0, indices)
        length = self._length_of(int(lengths.max()))
        ids = self._padded.ids.index_select(0, indices)[:, :length]
        return Batch.of(ids.long(), targets, torch.arange(length) < lengths.unsqueeze(1))

    @cached_property
    def _padded(self) -> Padded | None:
        """The padded split in memory; None if it is too large."""
        rows = self.rows.numpy()
        lengths = self._lengths(rows)
        length = self._length_of(int(lengths.max()))
        if len(rows) * length * torch.int32.itemsize > _RESIDENT_BYTES:
            return None
        ids = torch.empty((len(rows), length), dtype=torch.int32)
        for first in range(0, len(rows), _PADDED_AT_ONCE):
            part = rows[first : first + _PADDED_AT_ONCE]
            ids[first : first + len(part)] = torch.from_numpy(self.ids.padded(part, length, self.padding)[0])
        return Padded(ids, torch.from_numpy(lengths))

    def _lengths(self, rows: Array) -> Array:
        found: Array = self.ids.ends[rows + 1] - self.ids.ends[rows]
        return found

    def _length_of(self, longest: int) -> int:
        """Return the padded length of a batch whose longest sample has `longest` tokens."""
        return self.max_length if self.fixed else round_up(longest, self.max_length)


@dataclass(frozen=True)
class Blocks:
    """A long text in blocks of one length, in which each token is predicted from the earlier tokens of its block.

    Attributes:
        ids: Token ids of the text ([total]).
        length: Number of tokens per block.
    """

    ids: Array
    length: int

    def __len__(self) -> int:
        """Return the number of samples."""
        return max(0, len(self.ids) - 1) // self.length

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (self.length,)

    @property
    def reading(self) -> Reading:
        """How expensive reading is."""
        return Reading.INSTANT

    @property
    def origins(self) -> None:
        """None, because a block may contain many rows or part of one."""

    def take(self, indices: Tensor, epoch: int | None = None) -> Batch:  # noqa: ARG002 - nothing is augmented here
        """Return the blocks at `indices` ([k, length]), with the next token of each position as targets."""
        begins = (indices * self.length).tolist()
        blocks = np.stack([self.ids[begin : begin + self.length + 1] for begin in begins]).astype(np.int64)
        found = torch.from_numpy(blocks)
        return Batch.of(found[:, :-1].contiguous(), found[:, 1:].contiguous())


def round_up(length: int, longest: int) -> int:
    """Return the padded length of a batch: a multiple of 8, but at most `longest`."""
    return min(longest, -(-length // ROUNDING) * ROUNDING)


def pad(parts: list[Array], length: int, padding: float) -> tuple[Array, Array]:
    """Return rows padded to one length, and the mask of real positions.

    Args:
        parts: Rows of integer ids or of float32 [row length, features]; longer ones are truncated.
        length: Length of the result.
        padding: Value of padding.

    Returns:
        int64 [rows, length] or float32 [rows, length, features]; and bool [rows, length].
    """
    dtype = np.float32 if parts[0].dtype.kind == "f" else np.int64
    filled = np.full((len(parts), length, *parts[0].shape[1:]), padding, dtype)
    mask = np.zeros((len(parts), length), bool)
    for index, part in enumerate(parts):
        filled[index, : len(part)] = part[:length]
        mask[index, : len(part)] = True
    return filled, mask
