"""CSV files: a header line, numbers in the feature columns, numbers or class names in the target column."""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from trainwright.api.spec.sources import CsvData
from trainwright_worker.data.table import Samples, Table, open_path
from trainwright_worker.errors import DataError

FIELD = "spec.dataset.csv"


@dataclass(frozen=True)
class _Columns:
    target: int
    features: list[int]
    names: list[str]


def read_csv(data: CsvData, root: str, *, classify: bool) -> Table:
    """Return the table in a CSV file.

    Args:
        data: Which file and columns.
        root: Folder at which relative paths start.
        classify: Read the target as a class, whose names may be any text; otherwise as a number.

    Raises:
        DataError: The file, a column or a value is not as the spec says; names the line.
    """
    path = open_path(data.path, root, f"{FIELD}.path")
    inputs: list[list[float]] = []
    targets: list[str | float] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, delimiter=data.delimiter)
            columns = _find_columns(next(rows, []), data, path)
            for line, row in _full_rows(rows, columns, path):
                inputs.append([_number(row[i], columns.names[i], line, path) for i in columns.features])
                value = row[columns.target]
                targets.append(value.strip() if classify else _number(value, data.target, line, path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{FIELD}.path: cannot read {path} as UTF-8 CSV: {error}") from error
    if not inputs:
        raise DataError(f"{FIELD}.path: {path} has a header but no rows")
    features = torch.tensor(inputs, dtype=torch.float32)
    if not classify:
        return Table(Samples(features, torch.tensor(targets, dtype=torch.float32).unsqueeze(1)), classes=None)
    classes, labels = index_classes([str(value) for value in targets])
    return Table(Samples(features, labels), classes)


def index_classes(values: list[str]) -> tuple[tuple[str, ...], torch.Tensor]:
    """Return the distinct classes and, for each value, the index of its class.

    Classes that are all whole numbers are ordered as numbers, others as text.

    Returns:
        The class names and an int64 tensor [values].
    """
    names = set(values)
    try:
        classes = tuple(sorted(names, key=int))
    except ValueError:
        classes = tuple(sorted(names))
    position = {name: index for index, name in enumerate(classes)}
    return classes, torch.tensor([position[value] for value in values], dtype=torch.int64)


def _find_columns(header: list[str], data: CsvData, path: Path) -> _Columns:
    names = [name.strip() for name in header]
    wanted = {f"{FIELD}.target": [data.target], f"{FIELD}.features": data.features or []}
    for field, columns in wanted.items():
        for name in columns:
            if name not in names:
                raise DataError(f"{field}: {path} has no column {name!r}; it has {', '.join(names) or 'none'}")
    features = data.features or [name for name in names if name != data.target]
    if not features:
        raise DataError(f"{FIELD}.path: {path} has no column besides the target {data.target!r}")
    if data.target in features:
        raise DataError(f"{FIELD}.features: {data.target!r} is the target; the model would learn to copy it")
    return _Columns(names.index(data.target), [names.index(name) for name in features], names)


def _full_rows(rows: Iterator[list[str]], columns: _Columns, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of every row that is not blank."""
    for number, row in enumerate(rows, start=2):
        line = getattr(rows, "line_num", number)
        if not row:
            continue
        if len(row) != len(columns.names):
            raise DataError(
                f"{FIELD}.path: line {line} of {path} has {len(row)} values, its header {len(columns.names)}",
                "check spec.dataset.csv.delimiter and the quotes in the file",
            )
        yield line, row


def _number(text: str, column: str, line: int, path: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"{FIELD}.path: line {line} of {path}, column {column!r}: {text!r} is not a finite number",
            "fill or remove the value, or leave the column out with spec.dataset.csv.features",
        )
    return value
