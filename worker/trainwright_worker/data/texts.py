"""Stores of texts: read from beginning to end, never held as a whole."""

import json
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import torch
from torch import Tensor

from trainwright.api.spec.corpora import LabeledTextData, TextData
from trainwright_worker.data.cells import Faults, Gaps, Rows
from trainwright_worker.data.columns import missing_column
from trainwright_worker.data.labels import Labels
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.splits import find_own, refuse_others, say_left_out, say_taken_as_classes
from trainwright_worker.errors import DataError
from trainwright_worker.files import Location, csv_rows, find, find_all

PLAIN: Final = (".txt", ".text", ".md", ".raw", ".tokens")
JSONL: Final = (".jsonl", ".ndjson")
TABLES: Final = (".csv", ".tsv", ".parquet")
UNLABELED: Final = "unsup"
"""Folder of the IMDB reviews whose texts have no label."""
_HALF: Final = re.compile(r"[\ud800-\udfff]")
"""Halves of characters, which Python's text can hold and UTF-8 cannot."""
CHUNK_BYTES: Final = 32_768
CHUNKS: Final = 1_000
"""Plain text is held out in chunks: about so many at least, none much larger than CHUNK_BYTES."""


class TextStore(Protocol):
    """Texts in a fixed order."""

    @property
    def field(self) -> str:
        """Field of the spec that led here, for errors."""

    @property
    def places(self) -> Sequence[Location]:
        """The files in which they lie."""

    def texts(self) -> Iterator[str]:
        """Read all texts in their order."""

    def stamp(self) -> object:
        """Return what changes when the texts do, as JSON types."""


@dataclass(frozen=True)
class Labeled:
    """The labels of a store of texts.

    Attributes:
        labels: The label of each text that has one.
        rows: Which of the store's texts these are ([labels] int64).
        origins: The file and the row of each of them.
    """

    labels: Labels
    rows: Tensor
    origins: Origins


@dataclass(frozen=True)
class Files:
    """Where the texts of a store lie, and what to read there.

    Attributes:
        places: The files, in order.
        field: Field of the spec that led here, for errors.
        text_field: Field or column that holds the text.
        label_field: Field or column that holds the label; None if labels are not wanted.
        delimiter: Character between two values of a CSV file.
        blank: Whether texts may be blank.
    """

    places: tuple[Location, ...]
    field: str
    text_field: str
    label_field: str | None = None
    delimiter: str = ","
    blank: bool = False

    def texts(self) -> Iterator[str]:
        """Read all texts in their order.

        Raises:
            DataError: A file is damaged, or, once all are read, some are no texts.
        """
        faults = Faults()
        for location in self.places:
            rows = rows_of(location)
            for number, record in read_records(location, {"textField": self.text_field}, self.delimiter):
                text = record[self.text_field]
                if not add_text_fault(
                    faults, f"{self.field}.path", self.text_field, rows, number, text, blank=self.blank
                ):
                    yield text
        faults.check()

    def read_labels(self, faults: Faults, gaps: Gaps) -> "Labeled":
        """Read all labels, and see that the texts beside them are some.

        Args:
            faults: What takes texts and labels that are none.
            gaps: What takes labels that are missing.
        """
        label_field = self.label_field or ""
        columns = {"textField": self.text_field, "labelField": label_field}
        labels, kept, lines = Labels(), array("q"), list[tuple[str, Tensor]]()
        texts = 0
        for location in self.places:
            rows, found = rows_of(location), array("q")
            for number, record in read_records(location, columns, self.delimiter):
                label = record[label_field]
                add_text_fault(faults, f"{self.field}.path", self.text_field, rows, number, record[self.text_field])
                if not gaps.holds(label, rows, number) and not _add_label_fault(faults, gaps, rows, number, label):
                    labels.add(label)
                    kept.append(texts)
                    found.append(number)
                texts += 1
            lines.append((location.name, torch.tensor(found, dtype=torch.int64)))
        return Labeled(labels, torch.tensor(kept, dtype=torch.int64), Origins.of_files(lines))

    def stamp(self) -> object:
        """Return what changes when the texts do, as JSON types."""
        return [[place.stamp() for place in self.places], self.text_field]


@dataclass(frozen=True)
class Reviews:
    """A file per text in a folder per label, as the IMDB reviews have it.

    Attributes:
        folder: The folder that holds the folders.
        doubts: What is to be said of their names.
    """

    folder: Location
    doubts: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        """Field of the spec that led here, for errors."""
        return self.folder.field

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the folders."""
        others = [file.suffix for files in self._listed.values() for file in files if file.suffix != ".txt"]
        return (*self.doubts, *say_left_out(others, self.field, "not .txt"))

    @property
    def places(self) -> list[Location]:
        """The files in which the texts lie, label by label."""
        return [place for places in self._places.values() for place in places]

    @cached_property
    def _listed(self) -> dict[str, list[Location]]:
        """All files of each label."""
        folders = {Path(folder.path).name: folder for folder in self.folder.folders()}
        return {label: folder.files() for label, folder in folders.items() if label != UNLABELED}

    @cached_property
    def _places(self) -> dict[str, list[Location]]:
        found = {label: [file for file in files if file.suffix == ".txt"] for label, files in self._listed.items()}
        if not any(found.values()):
            raise DataError(f"{self.field}: {self.folder.name} holds no LABEL/*.txt files")
        return found

    def texts(self) -> Iterator[str]:
        """Read all texts, label by label."""
        for place in self.places:
            text = decode(place.read(), place.name, self.field)
            if not text.strip():
                raise DataError(f"{self.field}: {place.name} is empty")
            yield text

    def read_labels(self, faults: Faults, gaps: Gaps) -> "Labeled":  # noqa: ARG002 - no folder lacks a name
        """Return all labels; they follow from the names of the folders."""
        labels = Labels(label for label, places in self._places.items() for _ in places)
        files = [place.name for places in self._places.values() for place in places]
        return Labeled(labels, torch.arange(len(files)), Origins(files, torch.arange(len(files), dtype=torch.int32)))

    def stamp(self) -> object:
        """Return what changes when the texts do, as JSON types."""
        return [self.folder.name, {label: [place.path for place in places] for label, places in self._places.items()}]


@dataclass(frozen=True)
class PlainText:
    """Plain text in chunks of whole lines; a line that is longer than a chunk is cut between words."""

    places: tuple[Location, ...]
    field: str

    def texts(self) -> Iterator[str]:
        """Read all chunks in their order."""
        return (text for texts in self.files() for text in texts)

    def files(self) -> Iterator[Iterator[str]]:
        """Read the chunks of one file after the other."""
        for place in self.places:
            yield self._read(place)

    def _read(self, place: Location) -> Iterator[str]:
        with place.open() as file, place.reading():
            for chunk in _chunks(file, self._chunk_bytes):
                yield decode(chunk, place.name, self.field)

    @cached_property
    def _chunk_bytes(self) -> int:
        total = sum(int(place.stamp()[1]) for place in self.places)
        return max(1, min(CHUNK_BYTES, total // CHUNKS))

    def stamp(self) -> object:
        """Return what changes when the texts do, as JSON types."""
        return [place.stamp() for place in self.places]


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the content of a file in pieces of about `size` bytes, cut after a line, else before a space, else anywhere."""
    left = b""
    while more := file.read(size):
        left += more
        end = left.rfind(b"\n") + 1 or max(left.rfind(b" "), 0) or _last_character(left)
        if end:
            yield left[:end]
            left = left[end:]
    if left:
        yield left


def _last_character(text: bytes) -> int:
    """Return where the last character of UTF-8 text begins; it may not be whole yet."""
    begin = len(text) - 1
    while begin > 0 and text[begin] & 0xC0 == 0x80:  # noqa: PLR2004 - the mark of a byte that goes on with a character
        begin -= 1
    return begin


def open_labeled(data: LabeledTextData, path: str, root: str, field: str) -> dict[str, "Files | Reviews"]:
    """Return the texts of a path as "train" and, for folders as of IMDB, those of its other splits by their names.

    Raises:
        DataError: There is nothing of that kind, or two folders are the same split.
    """
    if "*" not in path and (folder := find(path, root, field)).is_folder():
        own = find_own((Path(inner.path).name for inner in folder.folders()), f"{field}: {folder.name}")
        if "train" not in own:
            return {"train": Reviews(folder, say_taken_as_classes(own, f"{field}: {folder.name}"))}
        others = [place for place in folder.folders() if Path(place.path).name not in own.values()]
        refuse_others(
            [Path(place.path).name for place in others if _holds_texts(place)],
            own["train"],
            f"{field}: {folder.name}",
        )
        return {split: Reviews(folder.child(name)) for split, name in own.items()}
    places = find_all(path, root, field)
    for location in places:
        if location.suffix not in JSONL + TABLES:
            raise DataError(f"{field}: {location.name} is neither .jsonl nor .csv nor .parquet, nor a folder")
    files = Files(tuple(places), "spec.dataset.labeledText", data.text_field, data.label_field, data.delimiter)
    return {"train": files}


def _holds_texts(folder: Location) -> bool:
    return Path(folder.path).name != UNLABELED and any(file.suffix == ".txt" for file in folder.files())


def open_text(data: TextData, path: str, root: str, field: str) -> "Files | PlainText":
    """Return the texts of a path for a language model.

    Raises:
        DataError: There are none, or of two kinds.
    """
    places = tuple(find_all(path, root, field, PLAIN + JSONL))
    kinds = {location.suffix in JSONL for location in places}
    if len(kinds) > 1:
        raise DataError(f"{field}: {path} holds both plain text and .jsonl: choose one with a pattern")
    if kinds == {False}:
        return PlainText(places, field)
    return Files(places, "spec.dataset.text", data.text_field, blank=True)


def rows_of(location: Location) -> Rows:
    """Return how to speak of the records of a file."""
    return Rows("row" if location.suffix == ".parquet" else "line", location.name)


def read_records(
    location: Location, columns: Mapping[str, str], delimiter: str = ","
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line, or the row, of each record (from 1) and its fields.

    Args:
        location: A .jsonl, .csv or .parquet file.
        columns: Columns wanted, by the fields of the spec that name them; a Parquet file is not read beyond them.
        delimiter: Character between two values of a CSV file.

    Raises:
        DataError: The file is not what its extension says, or a column is not there.
    """
    with location.open() as file, location.reading():
        if location.suffix == ".parquet":
            yield from _parquet_records(file, location, columns)
        elif location.suffix in (".csv", ".tsv"):
            yield from _csv_records(file, location, columns, "\t" if location.suffix == ".tsv" else delimiter)
        else:
            yield from _json_records(file, location, columns)


def decode(content: bytes, name: str, field: str) -> str:
    """Return UTF-8 text."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{field}: {name} is not UTF-8 text: {error}") from error


def add_text_fault(
    faults: Faults, field: str, column: str, rows: Rows, number: int, value: object, *, blank: bool = False
) -> bool:
    """Take a value that should be a text if it is none, and return whether it was taken.

    Args:
        faults: What takes it.
        field: Field of the spec that led here.
        column: Column, or field of a record, that holds it.
        rows: The file.
        number: Its row.
        value: What a record holds.
        blank: Whether a text may be blank.
    """
    need = (field, f"column {column!r} must hold text in every row")
    if not isinstance(value, str) or not (blank or value.strip()):
        faults.add(need, rows, [(number, value)], "write text where there is none, or remove these rows")
        return True
    # JSON can spell what is left of an emoji that was cut in half; no tokenizer takes it.
    if not value.isascii() and _HALF.search(value):
        faults.add(
            need, rows, [(number, value)], "write whole characters: these texts hold a half of one (a surrogate)"
        )
        return True
    return False


def _add_label_fault(faults: Faults, gaps: Gaps, rows: Rows, number: int, value: object) -> bool:
    """Take a label that is neither text nor a number."""
    if isinstance(value, str | int | float) and not (isinstance(value, str) and _HALF.search(value)):
        return False
    need = (gaps.field, f"column {gaps.column!r} must hold text or whole numbers")
    faults.add(need, rows, [(number, value)], "write what names the class")
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
        except ValueError as error:
            raise DataError(f"{location.field}: {where} is no JSON: {error}") from error
        if not isinstance(record, dict):
            raise DataError(f"{location.field}: {where} is no JSON object")
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
    """Refuse a table or a record that has not each of the columns wanted, once."""
    for key, name in columns.items():
        if name not in names:
            raise missing_column(f"{location.field.rpartition('.')[0]}.{key}", where, name, names)
        if names.count(name) > 1:
            raise DataError(f"{location.field}: {where} has {names.count(name)} columns named {name!r}", "rename them")
