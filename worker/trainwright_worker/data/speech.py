"""Reads sequences of frames with transcripts from JSONL files."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from trainwright.api.spec.corpora import LabeledSequencesData
from trainwright.api.spec.preparation import MissingTargets
from trainwright_worker.data.cells import Faults, Gaps
from trainwright_worker.data.frames import Frames
from trainwright_worker.data.normalization import Normalization
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.ragged import Array, Scratch
from trainwright_worker.data.records import add_text_fault, read_records, rows_of
from trainwright_worker.data.table import Table
from trainwright_worker.errors import DataError
from trainwright_worker.files import Location, find_all

_FIELD: Final = "spec.dataset.labeledSequences"
_SHOWN: Final = 10
"""Maximum number of characters that a message lists."""
_FRAME_DIMENSIONS: Final = 2


def read_sequences(data: LabeledSequencesData, root: str, scratch: Scratch, missing: MissingTargets) -> Table:
    """Return sequences, with the characters of the training transcripts as classes.

    Args:
        data: The files and the names of their fields.
        root: Folder that relative paths are resolved against.
        scratch: Cache of derived data.
        missing: What to do with sequences without a transcript.

    Raises:
        DataError: A file, a field or a value does not match the spec; names the line.
    """
    notes = list[str]()
    train = _open(data, data.path, root, "path", scratch, missing, notes)
    characters = np.unique(train.transcripts.values)

    def own(path: str | None, key: str) -> Frames | None:
        if path is None:
            return None
        found = _open(data, path, root, key, scratch, missing, notes)
        unknown = "".join(map(chr, np.setdiff1d(found.transcripts.values, characters)[:_SHOWN]))
        if unknown:
            raise DataError(f"{_FIELD}.{key}: {path} has the characters {unknown!r}, which the training data lacks")
        if found.frames.values.shape[1] != train.frames.values.shape[1]:
            raise DataError(
                f"{_FIELD}.{key}: {path} has {found.frames.values.shape[1]} features per frame, but the training data "
                f"has {train.frames.values.shape[1]}"
            )
        return found

    test, validation = own(data.test_path, "testPath"), own(data.validation_path, "validationPath")
    longest = max(part.max_length for part in (train, test, validation) if part is not None)
    test, validation = (None if part is None else replace(part, max_length=longest) for part in (test, validation))
    classes = tuple(map(chr, characters.tolist()))
    return Table(replace(train, max_length=longest), classes, test, validation, notes=tuple(notes))


@dataclass(frozen=True)
class _Line:
    """A sequence, its transcript as code points, and its position: the index of the file and the line."""

    frames: Array
    transcript: Array
    place: Array


def _open(
    data: LabeledSequencesData,
    path: str,
    root: str,
    key: str,
    scratch: Scratch,
    missing: MissingTargets,
    notes: list[str],
) -> Frames:
    field = f"{_FIELD}.{key}"
    places = find_all(path, root, field, (".jsonl", ".ndjson"))
    faults = Faults()
    gaps = Gaps(missing, faults, f"{_FIELD}.textField", data.text_field)
    stamp = ["sequences", [place.stamp() for place in places], data.frames_field, data.text_field, missing]

    def left() -> str:
        """Return notes about dropped sequences, from the rank that has read the files."""
        found = scratch.arrays([*stamp, "notes"], lambda: {"notes": np.array("\n".join(gaps.notes()))})
        return str(found["notes"])

    def rows() -> Iterator[tuple[Array, ...]]:
        for line in _lines(places, data, faults, gaps):
            yield line.frames, line.transcript, line.place
        faults.check()
        left()

    frames, transcripts, found = scratch.ragged(stamp, ("float32", "int32", "int64"), rows)
    notes.extend(left().splitlines())
    if not len(frames):
        raise DataError(f"{field}: {path} contains no sequences" + (" with a transcript" if notes else ""))
    file, line = torch.from_numpy(found.values.reshape(-1, 2).copy()).T
    origins = Origins([place.name for place in places], file.int(), line.contiguous())
    longest = int(frames.lengths().max())
    return Frames(frames, transcripts, torch.arange(len(frames)), Normalization(), longest, origins=origins)


def _lines(places: list[Location], data: LabeledSequencesData, faults: Faults, gaps: Gaps) -> Iterator[_Line]:
    """Yield the valid sequences, and record the faults of the others."""
    width = None
    columns = {"framesField": data.frames_field, "textField": data.text_field}
    for file, place in enumerate(places):
        rows = rows_of(place)
        for number, record in read_records(place, columns):
            text, frames = record[data.text_field], _frames(record[data.frames_field])
            if gaps.record_if_missing(text, rows, number):
                continue
            if frames is None or (width is not None and frames.shape[1] != width):
                shape = "finite numbers" if width is None else f"{width} finite numbers"
                need = (f"{_FIELD}.framesField", f"{data.frames_field!r} must hold a list of lists of {shape}")
                faults.add(need, rows, [(number, record[data.frames_field])], "write frames of one length")
                continue
            width = frames.shape[1]
            if add_text_fault(faults, f"{_FIELD}.textField", data.text_field, rows, number, text, blank=True):
                continue
            # CTC puts a blank between two equal characters.
            needed = len(text) + sum(a == b for a, b in itertools.pairwise(text))
            if needed > len(frames):
                need = (
                    _FIELD,
                    "a sequence must have one frame per character, and one more between two equal characters",
                )
                faults.add(need, rows, [(number, text)], "remove these sequences, or shorten their transcripts")
                continue
            yield _Line(frames, np.array([ord(character) for character in text], np.int32), np.array([file, number]))


def _frames(value: object) -> Array | None:
    """Return frames ([length, features] float32); None unless they are equally long lists of finite numbers."""
    try:
        frames = np.array(value, np.float32)
    except (TypeError, ValueError, OverflowError):
        return None
    return frames if frames.ndim == _FRAME_DIMENSIONS and frames.size and np.isfinite(frames).all() else None
