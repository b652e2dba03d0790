"""Where samples come from, so that a prediction leads back to the data: the file, and the row in it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Origins:
    """The file and the row of each sample of a split, in the order of its samples.

    It takes at most 12 bytes per sample, and stays on the CPU wherever the samples are.

    Attributes:
        files: Names of the files: paths on this machine, or URIs. Any sequence, so that millions of names may be packed.
        file: Which of the files each sample lies in ([samples] int32).
        row: Which row of the file ([samples] int64), as a person counts them: for text files (CSV, JSON lines) the line that
            an editor shows, so that the header of a CSV file is line 1, and the first line of a row of several; for tables
            without lines (Parquet, Arrow) the number of the row, from 1. None where each file is one sample.
    """

    files: Sequence[str]
    file: Tensor
    row: Tensor | None = None

    @classmethod
    def of_file(cls, name: str, row: Tensor) -> Self:
        """Return the origins of samples that all lie in one file.

        Args:
            name: The file.
            row: The row of each sample ([samples] int64).
        """
        return cls((name,), torch.zeros(1, dtype=torch.int32).expand(len(row)), row)

    @classmethod
    def of_files(cls, rows: Sequence[tuple[str, Tensor]]) -> Self:
        """Return the origins of the samples of several files, one file after the other.

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
        """Return `{"file": name, "row": number}` of a sample, without the row where its file holds nothing else."""
        name = {"file": self.files[int(self.file[index])]}
        return name if self.row is None else name | {"row": int(self.row[index])}
