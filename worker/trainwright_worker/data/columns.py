"""Selects the columns of tables, checks their types, and converts Arrow columns (Parquet, Hugging Face) to numbers.

Times count from 1970 in the unit of their type: seconds to nanoseconds, or days for dates. A column is converted to the
unit of the first training file, so data with a single unit keeps its values.
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
"""Maximum number of columns that a message lists."""
_UNIT: Final = re.compile(r"\[(\w+)")
"""The unit in the name of an Arrow type, such as timestamp[ms, tz=UTC]."""
_PER_SECOND: Final = {
    "day": Fraction(1, 86_400),
    "s": Fraction(1),
    "ms": Fraction(1_000),
    "us": Fraction(1_000_000),
    "ns": Fraction(1_000_000_000),
}
_NUMBERS: Final = frozenset({"numbers", "bool", "texts"})
"""Kinds of columns whose values are numbers, or texts that may be numbers."""
_TIMES: Final = frozenset({"times", "times with a time zone", "dates", "durations", "times of day"})
CLASS_KINDS: Final = _NUMBERS | _TIMES | {""}
"""Kinds of columns whose values may be classes."""

Units = Mapping[str, tuple[str, ...]]
"""Arrow types of each column of times, in the order of the files. All values are converted to the first type's unit."""


def missing_column(field: str, place: str, name: str, names: Sequence[str]) -> DataError:
    """Return the error for a missing column, with the existing columns and a suggestion.

    Args:
        field: Field of the spec that names the column.
        place: Name of the table for messages.
        name: The missing column.
        names: The existing columns.
    """
    shown = ", ".join(names[:_NAMES]) + (f", … ({len(names):,} in all)" if len(names) > _NAMES else "")
    close = difflib.get_close_matches(name.lower(), [known.lower() for known in names], n=1)
    meant = next((known for known in names if known.lower() in close), None)
    hint = None if meant is None else f"did you mean {meant!r}?"
    return DataError(f"{field}: {place} has no column {name!r}; it has {shown or 'none'}", hint)


def choose_features(
    names: Sequence[str], target: str, wanted: list[str] | None, place: str, field: str, left: Collection[str]
) -> list[str]:
    """Return the feature columns: those of the spec, or all except the target and those in `left`.

    Args:
        names: Columns of the table.
        target: Column to predict.
        wanted: Columns that the spec lists; None if it does not list any.
        place: Name of the table for messages.
        field: Field of the spec that contains `path`, `target` and `features`.
        left: Columns to leave out unless the spec lists them.

    Raises:
        DataError: A column is missing or duplicated, the target is among the features, or there are no features.
    """
    repeated = next((name for name in wanted or () if (wanted or []).count(name) > 1), None)
    if repeated is not None:
        raise DataError(f"{field}.features: lists {repeated!r} more than once", "list every column once")
    for key, columns in (("target", [target]), ("features", wanted or [])):
        for name in columns:
            if name not in names:
                raise missing_column(f"{field}.{key}", place, name, names)
    features = wanted or [name for name in names if name != target and name not in left]
    if not features:
        raise DataError(f"{field}.path: {place} has no column besides the target {target!r}")
    if target in features:
        raise DataError(
            f"{field}.features: {target!r} is the target, which the model would only learn to copy",
            "remove it from the features",
        )
    for name in (*features, target):
        if names.count(name) > 1:
            raise DataError(
                f"{field}.path: {place} has {names.count(name)} columns named {name!r}",
                f"rename them, or leave them out with {field}.features",
            )
    return features


def kind_of(column: Any) -> str:
    """Return the kind of values of an Arrow type, in words; an empty string for the null type (no values)."""
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
    """The types of a table's columns over all files of a job. The other files must match the first training file."""

    def __init__(self, field: str) -> None:
        """Start without types, for the source in `field` of the spec."""
        self._field = field
        self._first: dict[str, tuple[Any, str]] = {}
        self._types: dict[str, dict[str, None]] = {}

    @property
    def units(self) -> Units:
        """The types of the columns that hold times."""
        return {name: tuple(found) for name, found in self._types.items()}

    def check(self, types: Mapping[str, Any], place: str, field: str) -> None:
        """Check that the columns of a file contain numbers or times, of the same kind as in earlier files.

        Args:
            types: Type of each column.
            place: Name of the file for messages.
            field: Field of the spec that names the file.

        Raises:
            DataError: A column has another kind of values.
        """
        kinds = {name: kind_of(kind) for name, kind in types.items()}
        wrong = [f"{name!r} ({kind})" for name, kind in kinds.items() if kind not in {*_NUMBERS, *_TIMES, ""}]
        if wrong:
            raise DataError(
                f"{field}: {place} has columns that are not numbers: {', '.join(wrong)}",
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
        """Return a checked column as numbers ([rows] float64), with NaN for values that are not numbers."""
        return _to_numbers(values, self._first[name][0] if name in self._first else values.type)


def check_alike(first: str, kind: str, column: str, origin: str, place: str) -> None:
    """Check that a column has the same kind of values in two files.

    Args:
        first: Kind of values in the first file.
        kind: Kind of values in the other file.
        column: Name of the column for messages.
        origin: Name of the first file for messages.
        place: Name of the other file for messages.

    Raises:
        DataError: The kinds differ. Different units of the same kind are allowed.
    """
    if first != kind:
        raise DataError(f"{column} holds {first} in {origin}, but {kind} in {place}", "write all files with one type")


def check_units(saved: Units | None, units: Units) -> None:
    """Check that a resumed run reads times in the same units, because its normalization was measured in them.

    Args:
        saved: The units that the run has saved; None if an older version saved it without units.
        units: The units of the data.

    Raises:
        DataError: The units differ, or an older version has mixed different units.
    """
    for name, types in units.items():
        before = types if saved is None else saved.get(name, types)
        if before[0] != types[0]:
            raise DataError(
                f"spec.dataset: column {name!r} holds {types[0]}, but it held {before[0]} when the run started",
                "restore the previous data, or start a new job",
            )
        if saved is None and len(types) > 1:
            raise DataError(
                f"spec.dataset: column {name!r} holds {', '.join(types)}, which an earlier version read without "
                "converting the units",
                "start a new job",
            )


def add_faults(
    faults: Faults, columns: Mapping[str, Array], values: Any, field: str, rows: Rows, numbers: Array
) -> None:
    """Record the cells of Arrow columns that are not finite 32-bit numbers.

    Args:
        faults: Collects the invalid cells.
        columns: The columns as numbers.
        values: The Arrow columns, by name.
        field: Field of the spec that names the data.
        rows: The file of the rows.
        numbers: The number of each row ([rows] int64).
    """
    for name, found in columns.items():
        unusable = find_unusable(found)
        if len(unusable):
            column = values[name]
            shown = [column[index].as_py() for index in unusable[:LOOKED_AT].tolist()]
            faults.add_numbers(name, field, rows, numbers[unusable], shown)


def _to_numbers(values: Any, first: Any) -> Array:
    """Return an Arrow column as numbers, with times in the unit of the type `first`."""
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
    """Return the number of units of a time type per second (for days, 1 / 86,400)."""
    found = _UNIT.search(str(column))
    if found is None:
        raise TypeError(column)
    return _PER_SECOND[found[1]]
