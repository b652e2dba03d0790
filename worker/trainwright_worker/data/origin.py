"""The origins of samples, the file and the row, which link predictions to the data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Origins:
    """The file and the row of each sample of a split, in the order of its samples.

    They take at most 12 bytes per sample, and stay on the CPU even if the samples are on a GPU.

    Attributes:
        files: Paths or URIs of the files. This can be any sequence, so that millions of names can be stored compactly.
        file: Index of the file of each sample ([samples] int32).
        row: Row of each sample in its file ([samples] int64), starting at 1. For text files (CSV, JSON lines), it is
            the line number in an editor: the header of a CSV file is line 1, and a row that spans several lines has the
            number of its first line. For tables (Parquet, Arrow), it is the number of the row. None if each file is one
            sample.
    """

    files: Sequence[str]
    file: Tensor
    row: Tensor | None = None

    @classmethod
    def of_file(cls, name: str, row: Tensor) -> Self:
        """Return the origins of samples of a single file.

        Args:
            name: The file.
            row: The row of each sample ([samples] int64).
        """
        return cls((name,), torch.zeros(1, dtype=torch.int32).expand(len(row)), row)

    @classmethod
    def of_files(cls, rows: Sequence[tuple[str, Tensor]]) -> Self:
        """Return the origins of the samples of several files, in order.

        Args:
            rows: Each file, and the row of each of its samples ([samples] int64).
        """
        counts = torch.tensor([len(row) for _, row in rows], dtype=torch.int64)
        file = torch.repeat_interleave(torch.arange(len(rows), dtype=torch.int32), counts)
        return cls(tuple(name for name, _ in rows), file, torch.cat([row for _, row in rows]))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.file)

    def select(self, indices: Tensor) -> Self:
        """Return the origins of the samples at `indices` ([k] int64)."""
        return replace(self, file=self.file[indices], row=None if self.row is None else self.row[indices])

    def describe(self, index: int) -> dict[str, Any]:
        """Return `{"file": name, "row": number}` of a sample, without the row if each file is one sample."""
        name = {"file": self.files[int(self.file[index])]}
        return name if self.row is None else name | {"row": int(self.row[index])}
