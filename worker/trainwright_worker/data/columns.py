"""Columns of tables by their names and by what they hold, and those of Arrow (Parquet, Hugging Face) as numbers.

Times count from 1970 in a unit of their own: seconds or nanoseconds, days for dates. A column is read in the unit of the first
training file, whatever the unit of the others; so data that has always had one unit is read as it always was.
"""

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

import numpy as np

from trainwright_worker.data.cells import LOOKED_AT, Faults, Rows, find_unusable, parse_numbers
from trainwright_worker.data.ragged import Array
from trainwright_worker.errors import DataError

_NAMES: Final = 20
"""How many columns are listed."""
_UNIT: Final = re.compile(r"\[(\w+)")
"""How Arrow spells the unit of a type: timestamp[ms, tz=UTC]."""
_PER_SECOND: Final = {
    "day": Fraction(1, 86_400),
    "s": Fraction(1),
    "ms": Fraction(1_000),
    "us": Fraction(1_000_000),
    "ns": Fraction(1_000_000_000),
}
_NUMBERS: Final = frozenset({"numbers", "bool", "texts"})
"""Kinds of columns whose values are numbers, or may spell them."""
_TIMES: Final = frozenset({"times", "times with a time zone", "dates", "durations", "times of day"})

Units = Mapping[str, tuple[str, ...]]
"""Columns of times: the types that they have in the data, as Arrow spells them; all are read in the unit of the first."""


def missing_column(field: str, place: str, name: str, names: Sequence[str]) -> DataError:
    """Return the error that a table has no such column: it says which the table has, the nearest first.

    Args:
        field: Field of the spec that names the column.
        place: How to speak of the table.
        name: The column that is not there.
        names: Those that are.
    """
    shown = ", ".join(names[:_NAMES]) + (f", … ({len(names):,} in all)" if len(names) > _NAMES else "")
    close = difflib.get_close_matches(name.lower(), [known.lower() for known in names], n=1)
    meant = next((known for known in names if known.lower() in close), None)
    hint = None if meant is None else f"did you mean {meant!r}?"
    return DataError(f"{field}: {place} has no column {name!r}; it has {shown or 'none'}", hint)


def choose_features(
    names: Sequence[str], target: str, wanted: list[str] | None, place: str, field: str, left: Collection[str]
) -> list[str]:
    """Return the columns to learn from: those of the spec, or all but the target and those in `left`.

    Args:
        names: Columns of the table.
        target: Column to predict.
        wanted: Columns that the spec lists; None if it lists none.
        place: How to speak of the table.
        field: Field of the spec that holds `path`, `target` and `features`.
        left: Columns that are left out unless they are listed.

    Raises:
        DataError: A column is missing or there twice, or the target is among the features, or nothing is left.
    """
    for key, columns in (("target", [target]), ("features", wanted or [])):
        for name in columns:
            if name not in names:
                raise missing_column(f"{field}.{key}", place, name, names)
    features = wanted or [name for name in names if name != target and name not in left]
    if not features:
        raise DataError(f"{field}.path: {place} has no column besides the target {target!r}")
    if target in features:
        raise DataError(f"{field}.features: {target!r} is the target; the model would learn to copy it")
    for name in (*features, target):
        if names.count(name) > 1:
            raise DataError(
                f"{field}.path: {place} has {names.count(name)} columns named {name!r}",
                f"rename them, or leave them out with {field}.features",
            )
    return features


def kind_of(column: Any) -> str:
    """Return what a type of Arrow holds, in words; nothing for the type of a column without any value."""
    from pyarrow import types  # noqa: PLC0415 - only jobs with such data need it

    if types.is_dictionary(column):
        return kind_of(column.value_type)
    if types.is_timestamp(column) and column.tz is not None:
        return "times with a time zone"
    kinds = {
        "": types.is_null,
        "numbers": lambda kind: types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind),
        "texts": lambda kind: types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind),
        "times": types.is_timestamp,
        "dates": types.is_date,
        "durations": types.is_duration,
        "times of day": types.is_time,
    }
    return next((kind for kind, holds in kinds.items() if holds(column)), str(column))


class Columns:
    """The types of a table's columns, over all files of a job: the first training file says what the others must mean."""

    def __init__(self, field: str) -> None:
        """Make it for the source that `field` of the spec describes."""
        self._field = field
        self._first: dict[str, tuple[Any, str]] = {}
        self._types: dict[str, dict[str, None]] = {}

    @property
    def units(self) -> Units:
        """The types of the columns that hold times."""
        return {name: tuple(found) for name, found in self._types.items()}

    def check(self, types: Mapping[str, Any], place: str, field: str) -> None:
        """See that the columns of a file hold numbers or times, and mean what they meant in the files before.

        Args:
            types: Type of each column.
            place: How to speak of the file.
            field: Field of the spec that led to it.

        Raises:
            DataError: One holds something else.
        """
        kinds = {name: kind_of(kind) for name, kind in types.items()}
        wrong = [f"{name!r} ({kind})" for name, kind in kinds.items() if kind not in {*_NUMBERS, *_TIMES, ""}]
        if wrong:
            raise DataError(
                f"{field}: {place} has columns that hold no numbers: {', '.join(wrong)}",
                f"leave them out with {self._field}.features",
            )
        for name, kind in kinds.items():
            if not kind:
                continue
            first, origin = self._first.setdefault(name, (types[name], place))
            if not {kind_of(first), kind} <= _NUMBERS:
                check_alike(kind_of(first), kind, f"{self._field}: column {name!r}", origin, place)
            if kind in _TIMES:
                self._types.setdefault(name, {})[str(types[name])] = None

    def to_numbers(self, name: str, values: Any) -> Array:
        """Return a column, which was checked, as numbers ([rows] float64): NaN where it holds none."""
        return _to_numbers(values, self._first[name][0] if name in self._first else values.type)


def check_alike(first: str, kind: str, column: str, origin: str, place: str) -> None:
    """Refuse a column that holds something else in two files.

    Args:
        first: What it holds in the first.
        kind: What it holds in the other.
        column: How to speak of it.
        origin: How to speak of the first file.
        place: How to speak of the other.

    Raises:
        DataError: They differ in what they mean, rather than in their unit.
    """
    if first != kind:
        raise DataError(f"{column} holds {first} in {origin}, but {kind} in {place}", "write all files with one type")


def check_units(saved: Units | None, units: Units) -> None:
    """See that a run that goes on reads times as it did: its scaling was measured in their unit.

    Args:
        saved: The units that the run has saved; None if it is older than that.
        units: Those of the data.

    Raises:
        DataError: They differ, or an older run has read numbers of different units as if they were of one.
    """
    for name, types in units.items():
        before = types if saved is None else saved.get(name, types)
        if before[0] != types[0]:
            raise DataError(
                f"spec.dataset: column {name!r} holds {types[0]}, but the run to be continued has read {before[0]}",
                "put the data back as it was, or start a new job",
            )
        if saved is None and len(types) > 1:
            raise DataError(
                f"spec.dataset: column {name!r} holds {', '.join(types)}, which the run to be continued has read as numbers "
                "of one unit",
                "start a new job",
            )


def add_faults(
    faults: Faults, columns: Mapping[str, Array], values: Any, field: str, rows: Rows, numbers: Array
) -> None:
    """Take the cells of Arrow columns that are not finite numbers of 32 bits.

    Args:
        faults: What takes them.
        columns: The columns as numbers.
        values: The same as Arrow has them, by their names.
        field: Field of the spec that led here.
        rows: How to speak of the rows.
        numbers: The number of each row ([rows] int64).
    """
    for name, found in columns.items():
        unusable = find_unusable(found)
        if len(unusable):
            column = values[name]
            shown = [column[index].as_py() for index in unusable[:LOOKED_AT].tolist()]
            faults.add_numbers(name, field, rows, numbers[unusable], shown)


def _to_numbers(values: Any, first: Any) -> Array:
    """Return values of Arrow as numbers, times in the unit of the type `first`."""
    import pyarrow as pa  # noqa: PLC0415 - only jobs with such data need it

    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = kind_of(values.type)
    if kind == "texts":
        return parse_numbers(values.to_pylist())
    if pa.types.is_decimal(values.type):
        return np.array([math.nan if value is None else float(value) for value in values.to_pylist()])
    if kind == "bool":
        values = values.cast(pa.uint8())
    ratio = Fraction(1)
    if kind in _TIMES:
        ratio = _per_second(first) / _per_second(values.type)
        values = values.cast(pa.int32() if values.type.bit_width == pa.int32().bit_width else pa.int64())
    found: Array = values.to_numpy(zero_copy_only=False).astype(np.float64)
    return found if ratio == 1 else found * ratio.numerator / ratio.denominator


def _per_second(column: Any) -> Fraction:
    """Return how far a type of times counts in a second: a small part of 1 for days."""
    found = _UNIT.search(str(column))
    if found is None:
        raise TypeError(column)
    return _PER_SECOND[found[1]]
