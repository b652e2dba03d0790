"""Cells of tables: which texts are numbers, which mean a missing value, and which are invalid.

Invalid cells are collected over all files of a job and reported together with remedies, so that a user can fix all of
them at once.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

import numpy as np

from trainwright.api.spec.preparation import MissingTargets
from trainwright_worker.data.ragged import Array
from trainwright_worker.data.table import LARGEST
from trainwright_worker.errors import DataError

_SPELLINGS: Final = frozenset(
    [
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-nan",
        "-NaN",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "None",
        "n/a",
        "nan",
        "null",
    ]
)
"""Spellings of a missing value that pandas and R write and pandas recognizes. `none` and `na` are ordinary words."""
_EXAMPLES: Final = 3
"""Maximum number of cells of a column in a message."""
_COLUMNS: Final = 5
"""Maximum number of columns in a message."""
LOOKED_AT: Final = 100
"""Maximum number of invalid cells of one read that are examined to find remedies."""
_SHOWN_CHARACTERS: Final = 40

_CODE: Final = re.compile(r"\s*0\d+\s*")
_CODES: Final = re.compile(r"\n[ \t]*0\d")
"""A possible code with leading zeros, in texts that are joined with line breaks."""


def is_missing(value: object, policy: MissingTargets) -> bool:
    """Return whether a value is missing: null, NaN, blank, or (unless it may be a class name) a spelling of these."""
    if value is None or value != value:  # noqa: PLR0124 - only NaN differs from itself
        return True
    if not isinstance(value, str):
        return False
    text = value.strip()
    return not text or (policy != MissingTargets.CLASS and text in _SPELLINGS)


def parse_number(text: str | None) -> float:
    """Return the number in a text; NaN if it is not a number. Digits with leading zeros are a code, not a number."""
    try:
        # Python parses 18_2 as a number; other tools do not.
        return math.nan if text is None or "_" in text or _CODE.fullmatch(text) else float(text)
    except ValueError:
        return math.nan


def parse_numbers(texts: Sequence[str | None]) -> Array:
    """Return the numbers in texts ([texts] float64), with NaN for texts that are not numbers."""
    try:
        values = np.fromiter(map(float, texts), np.float64, len(texts))  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return np.array([parse_number(text) for text in texts])
    lines = "\n" + "\n".join(texts)  # type: ignore[arg-type]
    if "_" in lines or _CODES.search(lines):
        return np.array([parse_number(text) for text in texts])
    return values


def find_unusable(values: Array) -> Array:
    """Return the indices of values that are not finite 32-bit numbers, including NaN ([k] int64)."""
    return np.flatnonzero(~(np.abs(values) <= LARGEST))


@dataclass(frozen=True)
class Rows:
    """How messages name the rows of a file: lines of a text file, rows of a table."""

    unit: str
    name: str

    def at(self, number: int) -> str:
        """Return the name of one row for messages."""
        return f"{self.unit} {number} of {self.name}"


@dataclass
class _Fault:
    """The invalid cells of a column.

    Attributes:
        count: Number of invalid cells.
        examples: The first few: the file, the row, and the value as shown in messages.
        remedies: Remedies without duplicates, in the order of the cells.
    """

    count: int = 0
    examples: list[tuple[Rows, int, str]] = field(default_factory=list)
    remedies: dict[str, None] = field(default_factory=dict)

    def shown(self) -> str:
        """Return the examples with their positions, and the number of invalid cells."""
        parts = []
        for rows, cells in groupby(self.examples, key=lambda example: example[0]):
            places = ", ".join(f"{value} in {rows.unit} {number}" for _, number, value in cells)
            parts.append(f"{places} of {rows.name}")
        more = f", … ({self.count:,} in all)" if self.count > len(self.examples) else ""
        return ", ".join(parts) + more


class Faults:
    """All invalid cells in a job's data."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], _Fault] = {}

    def add(
        self, need: tuple[str, str], rows: Rows, cells: Iterable[tuple[int, object]], remedy: str, count: int = 1
    ) -> None:
        """Record invalid cells.

        Args:
            need: Field of the spec that names the column, and the requirement, such as "column 'a' must hold numbers".
            rows: The file of the cells.
            cells: Row and value of at least the first of the cells.
            remedy: How to fix them.
            count: Number of invalid cells.
        """
        fault = self._found.setdefault(need, _Fault())
        fault.count += count
        fault.remedies[remedy] = None
        for number, value in cells:
            if len(fault.examples) == _EXAMPLES:
                break
            fault.examples.append((rows, number, show(value)))

    def add_numbers(self, column: str, field: str, rows: Rows, numbers: Array, values: Sequence[object]) -> None:
        """Record invalid cells of a column that must hold numbers.

        Args:
            column: Name of the column.
            field: Field of the spec that names the file, such as spec.dataset.csv.path.
            rows: The file of the cells.
            numbers: The rows of the cells ([cells] int64).
            values: Values of at least the first of the cells.
        """
        if not len(numbers):
            return
        need = (field, f"column {column!r} must hold finite numbers of 32 bits")
        source = field.rpartition(".")[0]
        for number, value in zip(numbers[:LOOKED_AT].tolist(), values, strict=False):
            self.add(need, rows, [(number, value)], f"{column!r}: {_remedy(value, source)}")
        self._found[need].count += max(0, len(numbers) - LOOKED_AT)

    def check(self) -> None:
        """Raise an error if there are invalid cells.

        Raises:
            DataError: There are invalid cells; shows the first few of every column, with remedies.
        """
        if not self._found:
            return
        some = list(self._found.items())[:_COLUMNS]
        parts = [f"{field}: {need}, but holds {fault.shown()}" for (field, need), fault in some]
        if len(self._found) > _COLUMNS:
            parts.append(f"so do {len(self._found) - _COLUMNS:,} more columns")
        remedies = dict.fromkeys(remedy for _, fault in some for remedy in fault.remedies)
        raise DataError("; ".join(parts), "; ".join(remedies))


class Gaps:
    """Samples with a missing target: dropped and counted if the spec says so, otherwise reported as errors."""

    def __init__(self, policy: MissingTargets, faults: Faults, field: str, column: str) -> None:
        """Collect the samples with a missing target in one column.

        Args:
            policy: What to do with them.
            faults: Collects those that are errors.
            field: Field of the spec that names the column.
            column: The column, or the field of a record.
        """
        self.count = 0
        self.field = field
        self.column = column
        self._policy = policy
        self._faults = faults
        self._need = (field, f"column {column!r} must hold a target in every row")

    def record_if_missing(self, value: object, rows: Rows, number: int) -> bool:
        """Return whether a target is missing, and record its sample if it is.

        Args:
            value: The target.
            rows: The file.
            number: The row of the sample.
        """
        if not is_missing(value, self._policy):
            return False
        self.count += 1
        if self._policy != MissingTargets.DROP:
            remedy = "fill in the missing values, or drop these rows with spec.dataset.missingTargets: drop"
            if isinstance(value, str) and value.strip():
                remedy += f"; if {show(value)} is the name of a class, set it to class"
            self._faults.add(self._need, rows, [(number, value)], remedy)
        return True

    def notes(self) -> list[str]:
        """Return notes about dropped samples."""
        if not self.count:
            return []
        return [f"{self.field}: {self.count:,} rows without a target are dropped (spec.dataset.missingTargets: drop)"]


def show(value: object) -> str:
    """Return a value as text for a message, truncated if it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


_KINDS: Final = (
    (_CODE, "digits with leading zeros are a code rather than a number: {leave}, or write numbers without the zeros"),
    (re.compile(r"true|false|yes|no|t|f|y|n", re.IGNORECASE), "write 1 and 0 instead of words such as {value}"),
    (
        re.compile(r"[-+]?\d{1,3}([,'. \u00a0\u202f]\d{3})+(\.\d+)?"),
        "write thousands without separators, or a decimal point if {value} has a decimal comma",
    ),
    (re.compile(r"[-+]?[\d.]*,\d+"), "write decimal points instead of decimal commas"),
    (
        re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b.*|\d{1,2}:\d{2}.*"),
        "write dates and times as numbers, such as seconds, or use the date and timestamp types of Parquet",
    ),
    (re.compile(r"[^\w\s.,+-]?\s*[-+]?\d[\d.,]*\s*[^\d\s]{0,5}"), "write numbers without units or symbols around them"),
)
"""Patterns of texts that are not numbers, with remedies."""


def _remedy(value: object, source: str) -> str:
    """Return the remedy for a cell that is not a finite 32-bit number."""
    leave = f"leave the column out with {source}.features"
    if is_missing(value, MissingTargets.REFUSE):
        return f"fill in the missing values or remove their rows, or {leave}"
    if not isinstance(value, str) or not math.isnan(parse_number(value)):
        return f"make values finite and smaller than {LARGEST:.1e}, or {leave}"
    text = value.strip()
    for kind, remedy in _KINDS:
        if kind.fullmatch(text):
            return remedy.format(leave=leave, value=show(text))
    return f"text is not supported as a feature: {leave}, or write a column of 0 and 1 for each category"
