"""Tables: numbers in the feature columns, numbers or class names in the target column; CSV or Parquet."""

import csv
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec.sources import CsvData, ParquetData
from trainwright_worker.data.files import Location, csv_lines, find, find_all
from trainwright_worker.data.labels import Labels
from trainwright_worker.data.table import Samples, Table
from trainwright_worker.errors import DataError

_NOTHING: Final = ("", "nan")
"""How tables spell that a value is missing."""
_LARGEST: Final = float(np.finfo(np.float32).max)
"""The largest number that a model can be shown; what is larger would be infinite to it."""


@dataclass(frozen=True)
class _Read:
    """A table as it was read.

    Attributes:
        inputs: float32 [rows, features].
        names: Names of the feature columns.
        targets: Values of the target: numbers, or spellings of classes.
    """

    inputs: Tensor
    names: list[str]
    targets: "array[float] | Labels"


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
    return Table(_samples(train, classes, field), classes, test, validation)


def _one_file(path: str, root: str, field: str) -> Location:
    """Return the file that a path leads to, which a pattern or a folder does not."""
    found = None if "*" in path else find(path, root, field)
    if found is None or found.is_folder():
        raise DataError(
            f"{field}: csv takes one file, not {path}", "join the files, or write Parquet, which takes many"
        )
    return found


def choose_features(names: Sequence[str], data: CsvData | ParquetData, place: str, field: str) -> list[str]:
    """Return the columns to learn from.

    Raises:
        DataError: A column is missing or there twice, or the target is among the features, or nothing is left.
    """
    wanted = {f"{field}.target": [data.target], f"{field}.features": data.features or []}
    for key, columns in wanted.items():
        for name in columns:
            if name not in names:
                raise DataError(f"{key}: {place} has no column {name!r}; it has {', '.join(names) or 'none'}")
    features = data.features or [name for name in names if name != data.target]
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
    targets = torch.tensor(table.targets, dtype=torch.float32).unsqueeze(1)
    return Samples(table.inputs, targets, tuple(table.names))


def _read_csv(location: Location, data: CsvData, field: str, *, classify: bool) -> _Read:
    inputs = array("f")
    labels, numbers = Labels(), array("d")
    with location.open() as file, location.reading():
        rows = csv.reader(csv_lines(file), delimiter=data.delimiter)
        try:
            names = [name.strip() for name in next(rows, [])]
            features = choose_features(names, data, location.name, field)
            columns, target = [names.index(name) for name in features], names.index(data.target)
            for line, row in _full_rows(rows, len(names), location):
                inputs.extend([_number(row[i], names[i], line, location, field) for i in columns])
                if classify:
                    labels.add(_class(row[target], f"line {line} of {location.name}", data.target, field))
                else:
                    numbers.append(_number(row[target], data.target, line, location, field))
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{location.field}: cannot read {location.name} as UTF-8 CSV: {error}") from error
    if not inputs:
        raise DataError(f"{location.field}: {location.name} has a header but no rows")
    values = torch.frombuffer(inputs, dtype=torch.float32).reshape(-1, len(features))
    return _Read(values, features, labels if classify else numbers)


def _full_rows(rows: Any, width: int, location: Location) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of every row that is not blank."""
    for row in rows:
        if not row:
            continue
        if len(row) != width:
            raise DataError(
                f"{location.field}: line {rows.line_num} of {location.name} has {len(row)} values, its header {width}",
                "check spec.dataset.csv.delimiter and the quotes in the file",
            )
        yield rows.line_num, row


def _number(text: str, column: str, line: int, location: Location, field: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= _LARGEST:  # Not a number is not, either.
        raise DataError(
            f"{location.field}: line {line} of {location.name}, column {column!r}: {text!r} is not a finite number "
            "of 32 bits",
            f"fill or remove the value, or leave the column out with {field}.features",
        )
    return value


def _read_parquet(places: list[Location], data: ParquetData, field: str, *, classify: bool) -> _Read:
    from pyarrow import ArrowInvalid  # noqa: PLC0415 - only jobs with Parquet files need it
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - the same

    parts: list[Any] = []
    labels, numbers, features = Labels(), array("d"), list[str]()
    for location in places:
        before = len(labels)
        with location.open() as file, location.reading():
            try:
                parquet = ParquetFile(file)
                own = choose_features(parquet.schema_arrow.names, data, location.name, field)
                # Files may have the same columns in any order; a model knows its features by their places.
                features = features or own
                _check_same(features, own, places[0], location, field)
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
    return _Read(torch.from_numpy(np.concatenate(parts)), features, labels if classify else numbers)


def _check_same(features: list[str], own: list[str], first: Location, location: Location, field: str) -> None:
    """Refuse a file that has not the features of the first."""
    different = {*features} ^ {*own}
    if different:
        name = min(different)
        poorer, richer = (location, first) if name in features else (first, location)
        raise DataError(
            f"{location.field}: {poorer.name} has no column {name!r}, which {richer.name} has",
            f"name the columns that all files have in {field}.features",
        )


def _column(batch: Any, name: str, location: Location, field: str) -> Any:
    """Return a column of finite numbers ([rows] float32)."""
    try:
        values = batch.column(name).to_numpy(zero_copy_only=False).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{location.field}: {location.name}, column {name!r} does not hold numbers: {error}") from error
    if not np.isfinite(values).all():
        raise DataError(
            f"{location.field}: {location.name}, column {name!r} holds values that are not finite numbers",
            f"fill or remove them, or leave the column out with {field}.features",
        )
    return values


def _class(value: object, where: str, column: str, field: str) -> object:
    """Return what spells a class, if it does."""
    if value is None or str(value).strip().lower() in _NOTHING:
        raise DataError(f"{field}.target: {where}, column {column!r}: {value!r} is no class", "fill or remove the rows")
    return value


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
