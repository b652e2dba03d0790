"""Tables: numbers in the feature columns, numbers or class names in the target column; CSV or Parquet."""

import math
import re
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec.sources import CsvData, ParquetData
from trainwright_worker.data.labels import Labels
from trainwright_worker.data.table import LARGEST, Samples, Table
from trainwright_worker.errors import DataError
from trainwright_worker.files import Location, csv_rows, find, find_all

_NOTHING: Final = ("", "nan")
"""How tables spell that a value is missing."""
_ROW_NUMBER: Final = re.compile(r"__index_level_\d+__")
"""What pandas calls the column in which it writes the numbers of the rows."""


@dataclass(frozen=True)
class _Read:
    """A table as it was read.

    Attributes:
        inputs: float64 [rows, features].
        names: Names of the feature columns.
        targets: Values of the target: numbers, or spellings of classes.
        notes: What a person should know of the columns.
    """

    inputs: Tensor
    names: list[str]
    targets: "array[float] | Labels"
    notes: tuple[str, ...] = ()


def read_table(data: CsvData | ParquetData, root: str, *, classify: bool) -> Table:
    """Return the table in files of CSV or Parquet.

    Args:
        data: Which files and columns.
        root: Folder at which relative paths start.
        classify: Read the target as a class, whose names may be any text; otherwise as a number.

    Raises:
        DataError: A file, a column or a value is not as the spec says; names the line.
    """
    field = "spec.dataset.csv" if isinstance(data, CsvData) else "spec.dataset.parquet"

    def read(path: str, key: str) -> _Read:
        if isinstance(data, CsvData):
            return _read_csv(_one_file(path, root, f"{field}.{key}"), data, field, classify=classify)
        return _read_parquet(find_all(path, root, f"{field}.{key}", (".parquet",)), data, field, classify=classify)

    train = read(data.path, "path")
    classes = None
    if isinstance(train.targets, Labels):
        classes = train.targets.classes()
        _check_classes(classes, data.target, f"{field}.target")

    def own(path: str | None, key: str) -> Samples | None:
        if path is None:
            return None
        found = read(path, key)
        if found.names != train.names:
            raise DataError(
                f"{field}.{key}: {path} has the features {', '.join(found.names)}, not those of {data.path}"
            )
        return _samples(found, classes, f"{field}.{key}")

    test, validation = own(data.test_path, "testPath"), own(data.validation_path, "validationPath")
    return Table(_samples(train, classes, field), classes, test, validation, notes=train.notes)


def _one_file(path: str, root: str, field: str) -> Location:
    """Return the file that a path leads to, which a pattern or a folder does not."""
    found = None if "*" in path else find(path, root, field)
    if found is None or found.is_folder():
        raise DataError(
            f"{field}: csv takes one file, not {path}", "join the files, or write Parquet, which takes many"
        )
    return found


def choose_features(
    names: Sequence[str], data: CsvData | ParquetData, place: str, field: str, left: Collection[str]
) -> list[str]:
    """Return the columns to learn from: those of the spec, or all but the target and those in `left`.

    Raises:
        DataError: A column is missing or there twice, or the target is among the features, or nothing is left.
    """
    wanted = {f"{field}.target": [data.target], f"{field}.features": data.features or []}
    for key, columns in wanted.items():
        for name in columns:
            if name not in names:
                raise DataError(f"{key}: {place} has no column {name!r}; it has {', '.join(names) or 'none'}")
    features = data.features or [name for name in names if name != data.target and name not in left]
    if not features:
        raise DataError(f"{field}.path: {place} has no column besides the target {data.target!r}")
    if data.target in features:
        raise DataError(f"{field}.features: {data.target!r} is the target; the model would learn to copy it")
    for name in (*features, data.target):
        if names.count(name) > 1:
            raise DataError(
                f"{field}.path: {place} has {names.count(name)} columns named {name!r}",
                f"rename them, or leave them out with {field}.features",
            )
    return features


def _samples(table: _Read, classes: tuple[str, ...] | None, field: str) -> Samples:
    if isinstance(table.targets, Labels):
        return Samples(table.inputs, table.targets.index(classes or (), field), tuple(table.names))
    targets = torch.tensor(table.targets, dtype=torch.float64).unsqueeze(1)
    return Samples(table.inputs, targets, tuple(table.names))


def _read_csv(location: Location, data: CsvData, field: str, *, classify: bool) -> _Read:
    inputs = array("d")
    labels, numbers = Labels(), array("d")
    with location.open() as file, location.reading():
        rows = csv_rows(file, location, data.delimiter)
        _, names = next(rows)
        features = choose_features(names, data, location.name, field, left=("",))
        columns, target = [names.index(name) for name in features], names.index(data.target)
        for line, row in rows:
            inputs.extend([_number(row[i], names[i], line, location, field) for i in columns])
            if classify:
                labels.add(_class(row[target], f"line {line} of {location.name}", data.target, field))
            else:
                numbers.append(_number(row[target], data.target, line, location, field))
    if not inputs:
        raise DataError(f"{location.field}: {location.name} has a header but no rows")
    values = torch.frombuffer(inputs, dtype=torch.float64).reshape(-1, len(features))
    notes = []
    if data.features is None and "" in names:
        notes.append(
            f"{field}.features: {location.name} has a column without a name, as pandas writes the numbers of the rows, "
            "which is left out; to keep it, name it in the file's first line"
        )
    return _Read(values, features, labels if classify else numbers, tuple(notes))


def _number(text: str, column: str, line: int, location: Location, field: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST:  # Not a number is not, either.
        raise DataError(
            f"{location.field}: line {line} of {location.name}, column {column!r}: {text!r} is not a finite number "
            "of 32 bits",
            f"fill or remove the value, or leave the column out with {field}.features",
        )
    return value


@dataclass(frozen=True)
class _Form:
    """What the columns of a Parquet file are.

    Attributes:
        location: The file.
        features: Columns to learn from.
        classes: What spells its classes: numbers, texts, …; empty in a regression.
        left: Columns in which pandas wrote its index, and that are left out.
    """

    location: Location
    features: list[str]
    classes: str
    left: list[str]


def _read_parquet(places: list[Location], data: ParquetData, field: str, *, classify: bool) -> _Read:
    from pyarrow import ArrowInvalid  # noqa: PLC0415 - only jobs with Parquet files need it
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - the same

    parts, forms = list[Any](), list[_Form]()
    labels, numbers = Labels(), array("d")
    for location in places:
        before = len(labels)
        with location.open() as file, location.reading():
            try:
                parquet = ParquetFile(file)
                forms.append(_form(parquet.schema_arrow, data, location, field, classify=classify))
                _check_same(forms[0], forms[-1], data.target, field)
                # Files may have the same columns in any order; a model knows its features by their places.
                features = forms[0].features
                for batch in parquet.iter_batches(columns=[*features, data.target]):
                    parts.append(np.stack([_column(batch, name, location, field) for name in features], axis=1))
                    if classify:
                        for value in batch.column(data.target).to_pylist():
                            row = f"row {len(labels) - before} of {location.name}"
                            labels.add(_class(value, row, data.target, field))
                    else:
                        numbers.extend(_column(batch, data.target, location, field).tolist())
            except ArrowInvalid as error:
                raise DataError(f"{location.field}: cannot read {location.name} as Parquet: {error}") from error
    if not sum(map(len, parts)):
        raise DataError(f"{places[0].field}: {places[0].name} has columns but no rows")
    notes = tuple(
        f"{field}.features: the column {name!r} is an index that pandas wrote and left out; list it to learn from it"
        for name in dict.fromkeys(name for form in forms for name in form.left)
    )
    values = torch.from_numpy(np.concatenate(parts))
    return _Read(values, forms[0].features, labels if classify else numbers, notes)


def _form(schema: Any, data: ParquetData, location: Location, field: str, *, classify: bool) -> _Form:
    written = (schema.pandas_metadata or {}).get("index_columns", [])
    index = [name for name in schema.names if name in written or _ROW_NUMBER.fullmatch(name)]
    features = choose_features(schema.names, data, location.name, field, index)
    left = [name for name in index if name not in features and name != data.target and data.features is None]
    return _Form(location, features, _kind(schema.field(data.target).type) if classify else "", left)


def _kind(column: Any) -> str:
    """Return what a column holds, as far as classes are spelt by it."""
    from pyarrow import types  # noqa: PLC0415 - only jobs with Parquet files need it

    if types.is_dictionary(column):
        return _kind(column.value_type)
    if types.is_integer(column) or types.is_floating(column) or types.is_decimal(column):
        return "numbers"
    return "texts" if types.is_string(column) or types.is_large_string(column) else str(column)


def _check_same(first: _Form, form: _Form, target: str, field: str) -> None:
    """Refuse a file that has not the features of the first, or spells the classes by something else."""
    different = {*first.features} ^ {*form.features}
    if different:
        name = min(different)
        poorer, richer = (form, first) if name in first.features else (first, form)
        raise DataError(
            f"{form.location.field}: {poorer.location.name} has no column {name!r}, which {richer.location.name} has",
            f"name the columns that all files have in {field}.features",
        )
    if first.classes != form.classes:
        raise DataError(
            f"{field}.target: column {target!r} holds {first.classes} in {first.location.name}, but {form.classes} in "
            f"{form.location.name}",
            "write all files with one type",
        )


def _column(batch: Any, name: str, location: Location, field: str) -> Any:
    """Return a column of finite numbers ([rows] float64)."""
    column = batch.column(name)
    whole = not column.null_count  # What is no time or date would become a number like any other.
    try:
        values = column.to_numpy(zero_copy_only=False).astype(np.float64) if whole else np.empty(0)
    except (TypeError, ValueError) as error:
        raise DataError(f"{location.field}: {location.name}, column {name!r} does not hold numbers: {error}") from error
    if not (whole and (np.abs(values) <= LARGEST).all()):
        raise DataError(
            f"{location.field}: {location.name}, column {name!r} holds values that are not finite numbers of 32 bits",
            f"fill or remove them, or leave the column out with {field}.features",
        )
    return values


def _class(value: object, where: str, column: str, field: str) -> object:
    """Return what spells a class, if it does; a whole number in one way."""
    if value is None or str(value).strip().lower() in _NOTHING:
        raise DataError(f"{field}.target: {where}, column {column!r}: {value!r} is no class", "fill or remove the rows")
    # Where a value was missing once, pandas wrote whole numbers as fractions.
    return int(value) if isinstance(value, float | Decimal) and value % 1 == 0 else value


def _check_classes(classes: tuple[str, ...], column: str, field: str) -> None:
    """Refuse numbers with fractions, which measure something instead of naming it."""
    try:
        fraction = next((name for name in classes if not float(name).is_integer()), None)
    except ValueError:
        return
    if fraction is not None:
        raise DataError(
            f"{field}: column {column!r} holds {len(classes):,} different numbers, as {fraction}, which are no classes",
            "predict them with task: regression, or write the classes as text",
        )
