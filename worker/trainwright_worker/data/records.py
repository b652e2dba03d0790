"""Reads the records of JSONL, CSV and Parquet files, and checks the texts and labels in them."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Final

from trainwright_worker.data.cells import Faults, Gaps, Rows
from trainwright_worker.data.columns import missing_column
from trainwright_worker.errors import DataError
from trainwright_worker.files import Location, csv_rows

_HALF: Final = re.compile(r"[\ud800-\udfff]")
"""Lone surrogates, which Python strings can contain, but UTF-8 cannot."""


def rows_of(location: Location) -> Rows:
    """Return how messages name the records of a file."""
    return Rows("row" if location.suffix == ".parquet" else "line", location.name)


def read_records(
    location: Location, columns: Mapping[str, str], delimiter: str = ","
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line or row of each record, starting at 1, and its fields.

    Args:
        location: A .jsonl, .csv or .parquet file.
        columns: The columns to read, by the fields of the spec that name them. Other columns of a Parquet file are not
            read.
        delimiter: Delimiter of a CSV file.

    Raises:
        DataError: The file does not match its extension, or a column is missing.
    """
    with location.open() as file, location.reading():
        if location.suffix == ".parquet":
            yield from _parquet_records(file, location, columns)
        elif location.suffix in (".csv", ".tsv"):
            yield from _csv_records(file, location, columns, "\t" if location.suffix == ".tsv" else delimiter)
        else:
            yield from _json_records(file, location, columns)


def add_text_fault(
    faults: Faults, field: str, column: str, rows: Rows, number: int, value: object, *, blank: bool = False
) -> bool:
    """Record a value that is not a valid text; return whether it was recorded.

    Args:
        faults: Collects invalid values.
        field: Field of the spec that error messages name.
        column: Column, or field of a record, of the value.
        rows: The file.
        number: Row of the value.
        value: The value.
        blank: Whether a text may be blank.
    """
    need = (field, f"column {column!r} must hold text in every row")
    if not isinstance(value, str) or not (blank or value.strip()):
        faults.add(need, rows, [(number, value)], "write text in these rows, or remove them")
        return True
    # JSON can contain one half of a surrogate pair, such as a truncated emoji, but tokenizers cannot encode it.
    if not value.isascii() and _HALF.search(value):
        faults.add(need, rows, [(number, value)], "replace the incomplete characters (lone surrogates) in these texts")
        return True
    return False


def add_label_fault(faults: Faults, gaps: Gaps, rows: Rows, number: int, value: object) -> bool:
    """Record a label that is neither text nor a number; return whether it was recorded."""
    if isinstance(value, str | int | float) and not (isinstance(value, str) and _HALF.search(value)):
        return False
    need = (gaps.field, f"column {gaps.column!r} must hold text or integers")
    faults.add(need, rows, [(number, value)], "write the name or number of the class")
    return True


def _json_records(
    file: Iterable[bytes], location: Location, columns: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        where = f"line {number} of {location.name}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{location.field}: {where} is not valid JSON: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{location.field}: {where} is not a JSON object")
        _check_columns([*record], columns, where, location)
        yield number, record


def _csv_records(
    file: BinaryIO, location: Location, columns: Mapping[str, str], delimiter: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv_rows(file, location, delimiter)
    _, names = next(rows)
    _check_columns(names, columns, location.name, location)
    for line, row in rows:
        yield line, dict(zip(names, row, strict=True))


def _parquet_records(file: Any, location: Location, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    from pyarrow import ArrowInvalid  # noqa: PLC0415 - only jobs with Parquet files need it
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - the same

    try:
        parquet = ParquetFile(file)
        _check_columns(parquet.schema_arrow.names, columns, location.name, location)
        batches = parquet.iter_batches(batch_size=1024, columns=[*columns.values()])
        yield from enumerate((record for batch in batches for record in batch.to_pylist()), start=1)
    except (UnicodeDecodeError, ArrowInvalid) as error:
        raise DataError(f"{location.field}: cannot read {location.name} as Parquet: {error}") from error


def _check_columns(names: Sequence[str], columns: Mapping[str, str], where: str, location: Location) -> None:
    """Check that a table or a record has each of the columns exactly once."""
    for key, name in columns.items():
        if name not in names:
            raise missing_column(f"{location.field.rpartition('.')[0]}.{key}", where, name, names)
        if names.count(name) > 1:
            raise DataError(f"{location.field}: {where} has {names.count(name)} columns named {name!r}", "rename them")
