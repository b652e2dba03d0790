"""Cells of tables: which text is a number, what spells that a value is missing, and which cells are refused.

Cells that are not what their column needs are collected over all files of a job and refused together, with what to do about
them, so that a person mends them in one go.
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
"""What pandas and R write for a value that is missing, and pandas reads as one; `none` and `na` are words."""
_EXAMPLES: Final = 3
"""How many cells of a column are shown."""
_COLUMNS: Final = 5
"""How many columns are shown."""
LOOKED_AT: Final = 100
"""How many cells that are read together are looked at to say what to do about them."""
_SHOWN_CHARACTERS: Final = 40

_CODE: Final = re.compile(r"\s*0\d+\s*")
_CODES: Final = re.compile(r"\n[ \t]*0\d")
"""What may be a code with leading zeros, among texts with a line each."""


def is_missing(value: object, policy: MissingTargets) -> bool:
    """Return whether a value says that there is none: null, not a number, blank, or spelled so unless that names a class."""
    if value is None or value != value:  # noqa: PLR0124 - only what is not a number differs from itself
        return True
    if not isinstance(value, str):
        return False
    text = value.strip()
    return not text or (policy != MissingTargets.CLASS and text in _SPELLINGS)


def parse_number(text: str | None) -> float:
    """Return the number that a text spells, NaN if it spells none; digits with leading zeros are a code."""
    try:
        # Python takes 18_2 for a number, and nobody else does.
        return math.nan if text is None or "_" in text or _CODE.fullmatch(text) else float(text)
    except ValueError:
        return math.nan


def parse_numbers(texts: Sequence[str | None]) -> Array:
    """Return the numbers that texts spell ([texts] float64), with NaN for what spells none."""
    try:
        values = np.fromiter(map(float, texts), np.float64, len(texts))  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return np.array([parse_number(text) for text in texts])
    lines = "\n" + "\n".join(texts)  # type: ignore[arg-type]
    if "_" in lines or _CODES.search(lines):
        return np.array([parse_number(text) for text in texts])
    return values


def find_unusable(values: Array) -> Array:
    """Return where values are not finite numbers of 32 bits ([k] int64); what is not a number is not, either."""
    return np.flatnonzero(~(np.abs(values) <= LARGEST))


@dataclass(frozen=True)
class Rows:
    """How to speak of the rows of a file: the lines of a text file, the rows of a table without lines."""

    unit: str
    name: str

    def at(self, number: int) -> str:
        """Return how to speak of one row."""
        return f"{self.unit} {number} of {self.name}"


@dataclass
class _Fault:
    """The cells of a column that are not what it needs.

    Attributes:
        count: How many there are.
        examples: The first few: the file, the row, the value as it is shown.
        remedies: What to do about them, each once, in the order of the cells.
    """

    count: int = 0
    examples: list[tuple[Rows, int, str]] = field(default_factory=list)
    remedies: dict[str, None] = field(default_factory=dict)

    def shown(self) -> str:
        """Return the examples with their places, and how many cells there are."""
        parts = []
        for rows, cells in groupby(self.examples, key=lambda example: example[0]):
            places = ", ".join(f"{value} in {rows.unit} {number}" for _, number, value in cells)
            parts.append(f"{places} of {rows.name}")
        more = f", … ({self.count:,} in all)" if self.count > len(self.examples) else ""
        return ", ".join(parts) + more


class Faults:
    """All cells of a job's data that are not what their columns need."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], _Fault] = {}

    def add(
        self, need: tuple[str, str], rows: Rows, cells: Iterable[tuple[int, object]], remedy: str, count: int = 1
    ) -> None:
        """Take cells that are not what their column needs.

        Args:
            need: Field of the spec that led here, and what its column must hold, as "column 'a' must hold numbers".
            rows: The file they lie in.
            cells: Some of them, the first ones at least: row and value.
            remedy: What to do about them.
            count: How many there are.
        """
        fault = self._found.setdefault(need, _Fault())
        fault.count += count
        fault.remedies[remedy] = None
        for number, value in cells:
            if len(fault.examples) == _EXAMPLES:
                break
            fault.examples.append((rows, number, show(value)))

    def add_numbers(self, column: str, field: str, rows: Rows, numbers: Array, values: Sequence[object]) -> None:
        """Take cells of a column that must hold numbers.

        Args:
            column: Its name.
            field: Field of the spec that led here, as spec.dataset.csv.path.
            rows: The file they lie in.
            numbers: The rows of the cells ([cells] int64).
            values: What they hold, the first ones at least.
        """
        if not len(numbers):
            return
        need = (field, f"column {column!r} must hold finite numbers of 32 bits")
        source = field.rpartition(".")[0]
        for number, value in zip(numbers[:LOOKED_AT].tolist(), values, strict=False):
            self.add(need, rows, [(number, value)], f"{column!r}: {_remedy(value, source)}")
        self._found[need].count += max(0, len(numbers) - LOOKED_AT)

    def check(self) -> None:
        """Refuse the data if there are any.

        Raises:
            DataError: There are; it shows the first few of every column, and says what to do about each kind.
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
    """Samples whose target is missing: left out and counted if the spec says so, refused otherwise."""

    def __init__(self, policy: MissingTargets, faults: Faults, field: str, column: str) -> None:
        """Take those of one column.

        Args:
            policy: What becomes of them.
            faults: What takes those that are refused.
            field: Field of the spec that names the column.
            column: The column, or the field of a record.
        """
        self.count = 0
        self.field = field
        self.column = column
        self._policy = policy
        self._faults = faults
        self._need = (field, f"column {column!r} must hold a target in every row")

    def holds(self, value: object, rows: Rows, number: int) -> bool:
        """Return whether a target is missing, and take its sample in if it is.

        Args:
            value: The target.
            rows: The file.
            number: The row of the sample.
        """
        if not is_missing(value, self._policy):
            return False
        self.count += 1
        if self._policy != MissingTargets.DROP:
            remedy = "fill in what is missing, or leave these rows out with spec.dataset.missingTargets: drop"
            if isinstance(value, str) and value.strip():
                remedy += f"; if {show(value)} is the name of a class, set it to class"
            self._faults.add(self._need, rows, [(number, value)], remedy)
        return True

    def notes(self) -> list[str]:
        """Return what is to be said of samples that are left out."""
        if not self.count:
            return []
        return [f"{self.field}: {self.count:,} rows without a target are left out (spec.dataset.missingTargets: drop)"]


def show(value: object) -> str:
    """Return a value as a message shows it."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


_KINDS: Final = (
    (_CODE, "digits with leading zeros are a code, which names something: {leave}, or write numbers without the zeros"),
    (re.compile(r"true|false|yes|no|t|f|y|n", re.IGNORECASE), "write 1 and 0 instead of {value} and the like"),
    (
        re.compile(r"[-+]?\d{1,3}([,'. \u00a0\u202f]\d{3})+(\.\d+)?"),
        "write thousands without separators, or a decimal point if {value} holds a decimal comma",
    ),
    (re.compile(r"[-+]?[\d.]*,\d+"), "write decimal points instead of decimal commas"),
    (
        re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b.*|\d{1,2}:\d{2}.*"),
        "write dates and times as numbers, such as seconds, or as dates and timestamps of Parquet",
    ),
    (re.compile(r"[^\w\s.,+-]?\s*[-+]?\d[\d.,]*\s*[^\d\s]{0,5}"), "write numbers without units or signs around them"),
)
"""What texts that are not numbers look like, and what to do about it."""


def _remedy(value: object, source: str) -> str:
    """Return what to do about a cell that is not a finite number of 32 bits."""
    leave = f"leave the column out with {source}.features"
    if is_missing(value, MissingTargets.REFUSE):
        return f"fill in the values that are missing or remove their rows, or {leave}"
    if not isinstance(value, str) or not math.isnan(parse_number(value)):
        return f"make values finite and smaller than {LARGEST:.1e}, or {leave}"
    text = value.strip()
    for kind, remedy in _KINDS:
        if kind.fullmatch(text):
            return remedy.format(leave=leave, value=show(text))
    return f"texts name categories: {leave}, or write a column of 0 and 1 for each category"
