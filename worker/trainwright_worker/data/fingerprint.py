"""Computes the fingerprint of a dataset, which shows whether a resumed run has the same samples as before.

The split depends on the seed and on the samples in their order. The fingerprint covers them file by file and is cheap:
values in memory are hashed; for images, only names and sizes; for files of texts or of many images, sizes and, if there are
few files, up to a megabyte of each.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import torch
import xxhash
from torch import Tensor

from trainwright_worker.data.corpus import Texts
from trainwright_worker.data.frames import Frames
from trainwright_worker.data.pictures import Pictures
from trainwright_worker.data.pieces import SPLIT, Fingerprint, Piece
from trainwright_worker.data.ragged import Array
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.table import Part, Table

_PIECES: Final = 256
"""Maximum number of pieces of a part in a fingerprint, which is saved with every checkpoint."""
_OPENED: Final = 256
"""With more text files than this, only their sizes are used."""

Content = Iterable[Tensor | Array]


def fingerprint(table: Table) -> Fingerprint:
    """Return the fingerprint of an unprocessed dataset."""
    parts = {SPLIT: table.samples, "validation": table.validation, "test": table.test}
    return Fingerprint({name: tuple(_merge(_pieces(part))) for name, part in parts.items() if part is not None})


def _pieces(part: Part) -> list[Piece]:
    match part:
        case Samples():
            return _by_file(part, lambda begin, end: (part.inputs[begin:end], part.targets[begin:end]))
        case Frames():
            return _by_file(part, lambda begin, end: _of_frames(part, begin, end))
        case Pictures():
            marks = part.images.marks()
            return _cut(
                marks.pieces,
                torch.from_numpy(marks.piece)[part.rows],
                lambda begin, end: (marks.values[part.rows[begin:end]], part.targets[begin:end]),
            )
        case Texts():
            places = part.store.places
            names = _shorten([place.name for place in places])
            whole = len(places) <= _OPENED
            files = [Piece(name, None, place.digest(whole=whole)) for name, place in zip(names, places, strict=True)]
            return [*files, Piece("the data", len(part), _hash((part.rows, part.targets, part.ends)))]
    raise TypeError(type(part))


def _by_file(part: Samples | Frames, content: Callable[[int, int], Content]) -> list[Piece]:
    """Return a piece for each file of samples, in order."""
    if part.origins is None:
        return [Piece("the data", len(part), _hash(content(0, len(part))))]
    return _cut(part.origins.files, part.origins.file, content)


def _cut(names: Sequence[str], piece: Tensor, content: Callable[[int, int], Content]) -> list[Piece]:
    """Return a piece for each consecutive run of samples of the same piece.

    Args:
        names: Names of all pieces.
        piece: Index of the piece of each sample ([samples] integers).
        content: Returns the data that identifies the samples in a range of indices.
    """
    numbers, counts = torch.unique_consecutive(piece, return_counts=True)
    ends = counts.cumsum(0).tolist()
    short = _shorten([names[number] for number in numbers.tolist()])
    return [
        Piece(name, count, _hash(content(end - count, end)))
        for name, count, end in zip(short, counts.tolist(), ends, strict=True)
    ]


def _of_frames(part: Frames, begin: int, end: int) -> Content:
    """Yield the transcripts, the lengths and the frames of sequences."""
    for number in part.rows[begin:end].tolist():
        yield part.transcripts.row(number)
        yield part.frames.ends[number : number + 2] - part.frames.ends[number]
        yield part.frames.row(number)


def _hash(content: Content) -> str:
    found = xxhash.xxh3_128()
    for part in content:
        found.update(np.ascontiguousarray(part).data)
    return found.hexdigest()


def _shorten(names: Sequence[str]) -> list[str]:
    """Return paths relative to their common folder, because the data may be mounted elsewhere after a restart."""
    folder = os.path.commonpath([os.path.dirname(name) for name in names])  # noqa: PTH120 - URIs are not paths
    return [os.path.relpath(name, folder) if folder else name for name in names]


def _merge(pieces: list[Piece]) -> Iterator[Piece]:
    """Merge adjacent pieces so that there are at most _PIECES, and yield them."""
    size = -(-len(pieces) // _PIECES)
    for begin in range(0, len(pieces), max(1, size)):
        some = pieces[begin : begin + size]
        if len(some) == 1:
            yield some[0]
            continue
        counts = [piece.samples for piece in some]
        total = None if None in counts else sum(count or 0 for count in counts)
        digest = xxhash.xxh3_128("".join(piece.name + piece.digest for piece in some).encode()).hexdigest()
        yield Piece(f"{some[0].name} to {some[-1].name}", total, digest)
