"""Stores of texts, which are read sequentially and never held in memory as a whole."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import torch
from torch import Tensor

from trainwright.api.spec.corpora import LabeledTextData, TextData
from trainwright_worker.data.cells import Faults, Gaps
from trainwright_worker.data.labels import Labels
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.records import add_label_fault, add_text_fault, read_records, rows_of
from trainwright_worker.data.splits import (
    check_no_other_folders,
    find_splits,
    note_ignored_files,
    note_splits_used_as_classes,
)
from trainwright_worker.errors import DataError
from trainwright_worker.files import Location, find, find_all

PLAIN: Final = (".txt", ".text", ".md", ".raw", ".tokens")
JSONL: Final = (".jsonl", ".ndjson")
TABLES: Final = (".csv", ".tsv", ".parquet")
UNLABELED: Final = "unsup"
"""Folder of the IMDB reviews without labels."""
CHUNK_BYTES: Final = 32_768
CHUNKS: Final = 1_000
"""Plain text is split into at least about this many chunks, none much larger than CHUNK_BYTES."""


class TextStore(Protocol):
    """Texts in a fixed order."""

    @property
    def field(self) -> str:
        """Field of the spec that error messages name."""

    @property
    def places(self) -> Sequence[Location]:
        """The files of the texts."""

    def texts(self) -> Iterator[str]:
        """Yield all texts in order."""

    def stamp(self) -> object:
        """Return a value that changes when the texts change, as JSON types."""


@dataclass(frozen=True)
class Labeled:
    """The labels of the texts in a store.

    Attributes:
        labels: Labels of the texts that have one.
        rows: Indices of these texts in the store ([labels] int64).
        origins: File and row of each of these texts.
    """

    labels: Labels
    rows: Tensor
    origins: Origins


@dataclass(frozen=True)
class Files:
    """Texts in records of JSONL, CSV or Parquet files.

    Attributes:
        places: The files, in order.
        field: Field of the spec that error messages name.
        text_field: Field or column of the text.
        label_field: Field or column of the label; None if labels are not needed.
        delimiter: Delimiter of CSV files.
        blank: Whether texts may be blank.
    """

    places: tuple[Location, ...]
    field: str
    text_field: str
    label_field: str | None = None
    delimiter: str = ","
    blank: bool = False

    def texts(self) -> Iterator[str]:
        """Yield all texts in order. Those of records without a label, which are not used, may be missing.

        Raises:
            DataError: A file is damaged, or some values are not texts; the latter is raised after all are read.
        """
        faults = Faults()
        for location in self.places:
            rows = rows_of(location)
            for number, record in read_records(location, {"textField": self.text_field}, self.delimiter):
                text = record[self.text_field]
                if self.label_field is not None and not isinstance(text, str):
                    yield ""  # `read_labels` has checked the texts of all records with a label.
                elif not add_text_fault(
                    faults,
                    f"{self.field}.path",
                    self.text_field,
                    rows,
                    number,
                    text,
                    blank=self.blank or self.label_field is not None,
                ):
                    yield text
        faults.check()

    def read_labels(self, faults: Faults, gaps: Gaps) -> "Labeled":
        """Read all labels, and check the texts.

        Args:
            faults: Collects invalid texts and labels.
            gaps: Collects missing labels.
        """
        label_field = self.label_field or ""
        columns = {"textField": self.text_field, "labelField": label_field}
        labels, kept, lines = Labels(), array("q"), list[tuple[str, Tensor]]()
        texts = 0
        for location in self.places:
            rows, found = rows_of(location), array("q")
            for number, record in read_records(location, columns, self.delimiter):
                label, text = record[label_field], record[self.text_field]
                if (
                    not gaps.record_if_missing(label, rows, number)
                    and not add_text_fault(faults, f"{self.field}.path", self.text_field, rows, number, text)
                    and not add_label_fault(faults, gaps, rows, number, label)
                ):
                    labels.add(label)
                    kept.append(texts)
                    found.append(number)
                texts += 1
            lines.append((location.name, torch.tensor(found, dtype=torch.int64)))
        return Labeled(labels, torch.tensor(kept, dtype=torch.int64), Origins.of_files(lines))

    def stamp(self) -> object:
        """Return a value that changes when the texts change, as JSON types."""
        return [[place.stamp() for place in self.places], self.text_field]


@dataclass(frozen=True)
class Reviews:
    """Texts as files in one folder per label, like the IMDB reviews.

    Attributes:
        folder: The parent folder.
        name_notes: Notes about the names of the folders.
    """

    folder: Location
    name_notes: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        """Field of the spec that error messages name."""
        return self.folder.field

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes about the folders for the user."""
        others = [file.suffix for files in self._listed.values() for file in files if file.suffix != ".txt"]
        return (*self.name_notes, *note_ignored_files(others, self.field, ".txt"))

    @property
    def places(self) -> list[Location]:
        """The files of the texts, label by label."""
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
            raise DataError(f"{self.field}: {self.folder.name} contains no LABEL/*.txt files")
        return found

    def texts(self) -> Iterator[str]:
        """Yield all texts, label by label."""
        for place in self.places:
            text = decode(place.read(), place.name, self.field)
            if not text.strip():
                raise DataError(f"{self.field}: {place.name} is empty")
            yield text

    def read_labels(self, faults: Faults, gaps: Gaps) -> "Labeled":  # noqa: ARG002 - every folder has a name
        """Return all labels, which are the names of the folders."""
        labels = Labels(label for label, places in self._places.items() for _ in places)
        files = [place.name for places in self._places.values() for place in places]
        return Labeled(labels, torch.arange(len(files)), Origins(files, torch.arange(len(files), dtype=torch.int32)))

    def stamp(self) -> object:
        """Return a value that changes when the texts change, as JSON types."""
        return [self.folder.name, {label: [place.path for place in places] for label, places in self._places.items()}]


@dataclass(frozen=True)
class PlainText:
    """Plain text in chunks of whole lines; a line that is longer than a chunk is split between words."""

    places: tuple[Location, ...]
    field: str

    def texts(self) -> Iterator[str]:
        """Yield all chunks in order."""
        return (text for texts in self.files() for text in texts)

    def files(self) -> Iterator[Iterator[str]]:
        """Yield the chunks of each file."""
        for place in self.places:
            yield self._read(place)

    def _read(self, place: Location) -> Iterator[str]:
        with place.open() as file, place.reading():
            for number, chunk in enumerate(_chunks(file, self._chunk_bytes)):
                # Only at the start of a file U+FEFF is a byte order mark.
                yield decode(chunk, place.name, self.field, "utf-8" if number else "utf-8-sig")

    @cached_property
    def _chunk_bytes(self) -> int:
        total = sum(int(place.stamp()[1]) for place in self.places)
        return max(1, min(CHUNK_BYTES, total // CHUNKS))

    def stamp(self) -> object:
        """Return a value that changes when the texts change, as JSON types."""
        return [place.stamp() for place in self.places]


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the content of a file in pieces of about `size` bytes that end after a line, else before a space."""
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
    """Return the start of the last character of UTF-8 text, which may be incomplete."""
    begin = len(text) - 1
    while begin > 0 and text[begin] & 0xC0 == 0x80:  # noqa: PLR2004 - the mark of a continuation byte
        begin -= 1
    return begin


def open_labeled(data: LabeledTextData, path: str, root: str, field: str) -> dict[str, "Files | Reviews"]:
    """Return the texts of a path as "train", and for folders like those of IMDB also the other splits by name.

    Raises:
        DataError: There are no such files, or two folders stand for the same split.
    """
    if "*" not in path and (folder := find(path, root, field)).is_folder():
        own = find_splits((Path(inner.path).name for inner in folder.folders()), f"{field}: {folder.name}")
        if "train" not in own:
            return {"train": Reviews(folder, note_splits_used_as_classes(own, f"{field}: {folder.name}"))}
        others = [place for place in folder.folders() if Path(place.path).name not in own.values()]
        check_no_other_folders(
            [Path(place.path).name for place in others if _holds_texts(place)],
            own["train"],
            f"{field}: {folder.name}",
        )
        return {split: Reviews(folder.child(name)) for split, name in own.items()}
    places = find_all(path, root, field)
    for location in places:
        if location.suffix not in JSONL + TABLES:
            raise DataError(f"{field}: {location.name} is not a folder, or a .jsonl, .csv or .parquet file")
    files = Files(tuple(places), "spec.dataset.labeledText", data.text_field, data.label_field, data.delimiter)
    return {"train": files}


def _holds_texts(folder: Location) -> bool:
    return Path(folder.path).name != UNLABELED and any(file.suffix == ".txt" for file in folder.files())


def open_text(data: TextData, path: str, root: str, field: str) -> "Files | PlainText":
    """Return the texts of a path for a language model.

    Raises:
        DataError: There are no texts, or files of two kinds.
    """
    places = tuple(find_all(path, root, field, PLAIN + JSONL))
    kinds = {location.suffix in JSONL for location in places}
    if len(kinds) > 1:
        raise DataError(f"{field}: {path} contains both plain text and .jsonl", "choose one kind with a pattern")
    if kinds == {False}:
        return PlainText(places, field)
    return Files(places, "spec.dataset.text", data.text_field, blank=True)


def decode(content: bytes, name: str, field: str, encoding: str = "utf-8-sig") -> str:
    """Decode UTF-8 text.

    Args:
        content: The text.
        name: Name of the file for messages.
        field: Field of the spec that names it.
        encoding: "utf-8-sig" to remove a byte order mark, or "utf-8".

    Raises:
        DataError: It is not UTF-8.
    """
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{field}: {name} is not UTF-8 text: {error}") from error
