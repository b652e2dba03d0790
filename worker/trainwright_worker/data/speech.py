"""Sequences of frames with transcripts, from JSONL."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from trainwright.api.spec.corpora import LabeledSequencesData
from trainwright.api.spec.preparation import Normalize
from trainwright_worker.data.normalization import Normalization
from trainwright_worker.data.ragged import Array, Scratch
from trainwright_worker.data.sequences import Frames
from trainwright_worker.data.table import Table
from trainwright_worker.data.texts import find_fault, read_records
from trainwright_worker.errors import DataError, UserError
from trainwright_worker.files import Location, find_all

_FIELD: Final = "spec.dataset.labeledSequences"
_FRAME_DIMENSIONS: Final = 2


def read_sequences(data: LabeledSequencesData, root: str, scratch: Scratch) -> Table:
    """Return sequences; the classes are the characters of the training transcripts.

    Raises:
        DataError: A file, a field or a value is not as the spec says; names the line.
    """
    train = _open(data, data.path, root, "path", scratch)
    characters = np.unique(train.transcripts.values)

    def own(path: str | None, key: str) -> Frames | None:
        if path is None:
            return None
        found = _open(data, path, root, key, scratch)
        unknown = np.setdiff1d(found.transcripts.values, characters)
        if len(unknown):
            raise DataError(f"{_FIELD}.{key}: {path} has the character {chr(unknown[0])!r}, which training has not")
        if found.frames.values.shape[1] != train.frames.values.shape[1]:
            raise DataError(
                f"{_FIELD}.{key}: {path} has frames of {found.frames.values.shape[1]} numbers, training of "
                f"{train.frames.values.shape[1]}"
            )
        return found

    test, validation = own(data.test_path, "testPath"), own(data.validation_path, "validationPath")
    longest = max(part.max_length for part in (train, test, validation) if part is not None)
    test, validation = (None if part is None else replace(part, max_length=longest) for part in (test, validation))
    return Table(replace(train, max_length=longest), tuple(map(chr, characters.tolist())), test, validation)


def measure_frames(train: Frames, spec: Normalize) -> Normalization:
    """Return the scaling of frames per feature, measured on the training split in float64.

    Raises:
        UserError: The scaling is one of images.
    """
    if spec == Normalize.NONE:
        return Normalization()
    if spec == Normalize.IMAGENET:
        raise UserError("spec.dataset.normalize: imagenet, but the data has no images")
    width = train.frames.values.shape[1]
    count, total, squares = 0, np.zeros(width), np.zeros(width)
    least, most = np.full(width, np.inf), np.full(width, -np.inf)
    # Counted from the first frame, what never changes is 0 throughout: of larger numbers rounding would leave a spread.
    origin = train.frames.row(int(train.rows[0]))[0].astype(np.float64)
    for number in train.rows.tolist():
        row = train.frames.row(number).astype(np.float64) - origin
        count += len(row)
        total += row.sum(0)
        squares += (row**2).sum(0)
        least, most = np.minimum(least, row.min(0)), np.maximum(most, row.max(0))
    offset = least if spec == Normalize.UNIT else total / count
    spread = most - least if spec == Normalize.UNIT else np.sqrt(np.maximum(squares / count - offset**2, 0))
    mean = origin + offset
    return Normalization(tuple(mean.tolist()), tuple(float(value) or 1.0 for value in spread))


@dataclass(frozen=True)
class _Line:
    """A sequence and its transcript, as code points."""

    frames: Array
    transcript: Array


def _open(data: LabeledSequencesData, path: str, root: str, key: str, scratch: Scratch) -> Frames:
    places = find_all(path, root, f"{_FIELD}.{key}", (".jsonl", ".ndjson"))
    stamp = ["sequences", [place.stamp() for place in places], data.frames_field, data.text_field]
    frames, transcripts = scratch.ragged(
        stamp, ("float32", "int32"), lambda: ((line.frames, line.transcript) for line in _lines(places, data))
    )
    if not len(frames):
        raise DataError(f"{_FIELD}.{key}: {path} holds no sequences")
    return Frames(frames, transcripts, torch.arange(len(frames)), Normalization(), int(frames.lengths().max()))


def _lines(places: list[Location], data: LabeledSequencesData) -> Iterator[_Line]:
    width = None
    columns = {"framesField": data.frames_field, "textField": data.text_field}
    for place in places:
        for where, record in read_records(place, columns):
            line = _line(record, where, data)
            width = width or line.frames.shape[1]
            if line.frames.shape[1] != width:
                raise DataError(
                    f"{_FIELD}.framesField: {where} has frames of {line.frames.shape[1]} numbers, not {width}"
                )
            yield line


def _line(record: dict[str, Any], where: str, data: LabeledSequencesData) -> _Line:
    try:
        frames = np.array(record[data.frames_field], np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{_FIELD}.framesField: {where}: the frames are no equally long lists of numbers") from error
    if frames.ndim != _FRAME_DIMENSIONS or not frames.size or not np.isfinite(frames).all():
        raise DataError(
            f"{_FIELD}.framesField: {where}: the frames are no list of equally long lists of finite numbers"
        )
    text = record[data.text_field]
    if fault := find_fault(text, blank=text != ""):
        raise DataError(f"{_FIELD}.textField: {where}: the transcript {fault}")
    repeats = sum(a == b for a, b in itertools.pairwise(text))
    if len(text) + repeats > len(frames):
        raise DataError(
            f"{_FIELD}: {where}: {len(frames)} frames cannot spell {len(text)} characters, {repeats} of them doubled"
        )
    return _Line(frames, np.array([ord(character) for character in text], np.int32))
