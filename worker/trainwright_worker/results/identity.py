"""Links a prediction to its sample in the data: the file, the row, and the original text."""

import tempfile
from typing import Any

import numpy as np
from torch import Tensor

from trainwright_worker.data.given import Given
from trainwright_worker.data.sequences import Tokens
from trainwright_worker.data.table import Split
from trainwright_worker.data.texts import TextStore


class Identities:
    """File, row and original text of each sample of a split."""

    def __init__(self, split: Split) -> None:
        """Prepare the lookup. If the samples are texts, this reads all texts again.

        Args:
            split: The predicted samples.
        """
        self._origins = split.origins
        self._texts: _OriginalTexts | list[str] | None = None
        if isinstance(split, Given):
            self._texts = split.texts
        elif isinstance(split, Tokens) and split.store is not None:
            self._texts = _OriginalTexts(split.store, split.rows)

    def describe(self, index: int) -> dict[str, Any]:
        """Return `file`, `row` and `text` of a sample; those that it does not have are omitted."""
        found = {} if self._origins is None else self._origins.describe(index)
        return found if self._texts is None else found | {"text": self._texts[index]}


class _OriginalTexts:
    """Selected texts of a store, kept in a temporary file because they may not fit in memory."""

    def __init__(self, store: TextStore, rows: Tensor) -> None:
        """Read the store once and keep the selected texts.

        Args:
            store: All texts.
            rows: Rows of the selected texts ([samples] int64).
        """
        self._rows = rows.numpy()
        wanted = np.zeros(int(self._rows.max()) + 1, bool)
        wanted[self._rows] = True
        self._begins = np.zeros(len(wanted), np.int64)
        self._sizes = np.zeros(len(wanted), np.int64)
        self._file = tempfile.TemporaryFile(prefix="trainwright-texts-")  # noqa: SIM115 - closed with this object
        for row, text in zip(range(len(wanted)), store.texts(), strict=False):
            if wanted[row]:
                self._begins[row] = self._file.tell()
                self._sizes[row] = self._file.write(text.encode())

    def __getitem__(self, index: int) -> str:
        """Return the text of a sample."""
        row = self._rows[index]
        self._file.seek(self._begins[row])
        return self._file.read(int(self._sizes[row])).decode()
