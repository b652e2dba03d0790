"""Reads the rows of CSV files, and checks that they match the header."""

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO, Final

from trainwright_worker.errors import DataError
from trainwright_worker.files import Location

_FIELD_CHARACTERS: Final = 1 << 28
"""Maximum length of a field of a CSV file; a longer one is probably an unclosed quote."""
_HEADERS: Final = 10
"""Maximum number of repeated headers that a message lists."""


def csv_rows(file: BinaryIO, location: Location, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line number and the values of each row of a CSV file, header included, without blank lines.

    Raises:
        DataError: It is not valid CSV, or a row has another number of values than the header or repeats the header.
    """
    csv.field_size_limit(_FIELD_CHARACTERS)
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    # strict: otherwise an unclosed quote would silently swallow the rest of the file.
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    headers = list[int]()
    line = 1
    try:
        names = _header(next(rows, []))
        known, some = sorted(names), set(names)
        yield rows.line_num, names
        line = rows.line_num + 1
        for row in rows:
            if row and len(row) != len(names):
                raise DataError(
                    f"{location.field}: line {line} of {location.name} has {len(row)} values, but the header has "
                    f"{len(names)}",
                    f"check {location.field.rpartition('.')[0]}.delimiter and the quotes in the file",
                )
            # A repeated header may have the columns in another order. Checking one value first keeps this fast.
            if row and row[0].strip("\ufeff ") in some and sorted(_header(row)) == known:
                headers.append(line)
            elif row:
                yield line, row
            line = rows.line_num + 1
    except UnicodeDecodeError as error:
        raise DataError(
            f"{location.field}: cannot read {location.name} from line {line} on as UTF-8 CSV: {error}",
            _encoding_hint(error),
        ) from error
    except csv.Error as error:
        place = f"{location.name} from line {line} on"
        raise DataError(f"{location.field}: cannot read {place} as UTF-8 CSV: {error}") from error
    if headers:
        shown = ", ".join(map(str, headers[:_HEADERS])) + (", …" if len(headers) > _HEADERS else "")
        raise DataError(
            f"{location.field}: {location.name} repeats its header in line {shown}, probably because files were joined",
            "remove these lines; if the columns after them are in another order, reorder them",
        )


def _header(row: list[str]) -> list[str]:
    return [name.strip("\ufeff").strip() for name in row]


def _encoding_hint(error: UnicodeDecodeError) -> str:
    """Return how to convert a file to UTF-8."""
    if error.object.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "it seems to be UTF-16: convert it with iconv -f UTF-16 -t UTF-8"
    if error.object.startswith(b"PK\x03\x04"):
        return "it seems to be an Excel workbook or a zip file: export it as CSV"
    return "if it is Latin-1 or Windows-1252, convert it with iconv -f WINDOWS-1252 -t UTF-8"
