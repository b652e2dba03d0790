"""Rows of different lengths in memory-mapped files: tokens of texts, frames of sequences.

They are written once per machine, by the first rank that gets the lock, while the others wait. All ranks share the
pages in the system's cache, so data of any size needs no additional memory per rank.
"""

import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from trainwright_worker.files import locked

_INDEX: Final = "index.npz"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Ragged:
    """Concatenated rows of different lengths.

    Attributes:
        values: Numbers, [total] or [total, width].
        ends: 0, followed by the end of each row, which is the start of the next ([rows + 1] int64).
    """

    values: Array
    ends: Array

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.ends) - 1

    def row(self, index: int) -> Array:
        """Return a row ([length] or [length, width]) without copying it."""
        return self.values[self.ends[index] : self.ends[index + 1]]

    def padded(self, rows: Array, length: int, padding: int) -> tuple[Array, Array]:
        """Return rows of integers, padded or truncated to one length, and the mask of real positions.

        Args:
            rows: Indices of the rows ([k] int64).
            length: Length of the result.
            padding: Value of padding.

        Returns:
            int64 [k, length] and bool [k, length].
        """
        positions = np.arange(length)
        begins = self.ends[rows]
        mask = positions < (self.ends[rows + 1] - begins)[:, None]
        # Positions beyond the end of a row read the next row; the mask replaces them by padding.
        found = self.values.take(begins[:, None] + positions, mode="clip")
        return np.where(mask, found, np.int64(padding)).astype(np.int64, copy=False), mask

    def lengths(self) -> Array:
        """Return the length of each row ([rows] int64)."""
        return np.diff(self.ends)


class Names:
    """Compact storage of many strings, such as millions of paths, without a Python object for each."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        parts = [os.fsencode(name) for name in names]  # fsencode supports file names in any encoding.
        self._ends: Array = np.cumsum([0, *map(len, parts)])
        self._text = b"".join(parts)

    def __len__(self) -> int:
        """Return the number of strings."""
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        """Return a string."""
        return os.fsdecode(self._text[self._ends[index] : self._ends[index + 1]])

    def arrays(self) -> tuple[Array, Array]:
        """Return the concatenated strings (uint8), and 0 followed by the end of each (int64)."""
        return np.frombuffer(self._text, np.uint8), self._ends

    @classmethod
    def from_arrays(cls, text: Array, ends: Array) -> Self:
        """Return the strings from the result of `arrays`."""
        names = cls()
        names._text, names._ends = text.tobytes(), ends
        return names


class Scratch:
    """The folder on this machine for data that is derived from the dataset and can be recomputed."""

    def __init__(self, folder: Path | None = None) -> None:
        """Use `folder`, which the ranks of a machine share; by default a temporary folder of this object."""
        self._own = None if folder is not None else tempfile.TemporaryDirectory(prefix="trainwright-data-")
        self.folder = Path(self._own.name) if self._own is not None else Path(folder or "")
        self.folder.mkdir(parents=True, exist_ok=True)

    def ragged(
        self, key: object, dtypes: tuple[str, ...], rows: Callable[[], Iterable[tuple[Array, ...]]]
    ) -> tuple[Ragged, ...]:
        """Return columns of rows that are stored under a key; compute and store them if necessary.

        Args:
            key: Everything that the rows depend on, as JSON types.
            dtypes: Data type of each column.
            rows: Yields the rows; in each column, [length] or [length, width].
        """
        with self._locked(key) as folder:
            if not (folder / _INDEX).exists():
                _write(folder, dtypes, rows())
            with np.load(folder / _INDEX) as index:
                return tuple(
                    Ragged(_map(folder / f"{column}.bin", dtype, index[f"shape{column}"]), index[f"ends{column}"])
                    for column, dtype in enumerate(dtypes)
                )

    def arrays(self, key: object, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        """Return arrays that are stored under a key; compute and store them if necessary."""
        with self._locked(key) as folder:
            file = folder / _INDEX
            if not file.exists():
                _save(file, make())
            with np.load(file) as found:
                return dict(found)

    @contextmanager
    def _locked(self, key: object) -> Iterator[Path]:
        folder = self.folder / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
        folder.mkdir(exist_ok=True)
        with locked(folder / "lock"):
            yield folder


def _write(folder: Path, dtypes: tuple[str, ...], rows: Iterable[tuple[Array, ...]]) -> None:
    ends = [array("q", [0]) for _ in dtypes]
    shapes: list[tuple[int, ...]] = [(0,) for _ in dtypes]
    with ExitStack() as stack:
        files = [stack.enter_context((folder / f"{column}.bin").open("wb")) for column in range(len(dtypes))]
        for row in rows:
            for column, part in enumerate(row):
                files[column].write(np.ascontiguousarray(part, dtypes[column]).data)
                ends[column].append(ends[column][-1] + len(part))
                shapes[column] = (ends[column][-1], *part.shape[1:])
    index = {f"ends{column}": np.frombuffer(ends[column], np.int64) for column in range(len(dtypes))}
    index |= {f"shape{column}": np.array(shapes[column]) for column in range(len(dtypes))}
    _save(folder / _INDEX, index)  # Written last, so that its existence shows that the values are complete.


def _save(file: Path, arrays: dict[str, Array]) -> None:
    writing = file.with_name(f"writing-{file.name}")
    np.savez(writing, **arrays)  # type: ignore[arg-type]
    writing.replace(file)


def _map(file: Path, dtype: str, shape: Array) -> Array:
    size = tuple(shape.tolist())
    if not size[0]:  # An empty file cannot be mapped.
        return np.zeros(size, dtype)
    return np.memmap(file, dtype, mode="r", shape=size)
