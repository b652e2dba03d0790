"""Reads images in one folder per class."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
import xxhash
from torch import Tensor

from trainwright.api.spec.corpora import ImageFolderData
from trainwright_worker.data.labels import note_alike
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.pictures import ImageNames, Marks, Pictures
from trainwright_worker.data.ragged import Array, Names
from trainwright_worker.data.splits import (
    check_no_other_folders,
    find_splits,
    note_ignored_files,
    note_splits_used_as_classes,
)
from trainwright_worker.data.table import Reading, Table
from trainwright_worker.errors import DataError
from trainwright_worker.files import Location, find

SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)
_FIELD: Final = "spec.dataset.imageFolder.path"


@dataclass(frozen=True)
class ImageFiles:
    """Images, one file each.

    Attributes:
        folder: The folder of all images.
        names: Paths relative to the folder.
        sizes: Sizes in bytes ([images] int64).
        classes: Names of the classes, which are also their folders.
        targets: Class of each image ([images] int64).
    """

    folder: Location
    names: Names
    sizes: Array
    classes: tuple[str, ...]
    targets: Tensor

    @property
    def reading(self) -> Reading:
        """How expensive reading is."""
        return Reading.DECODING if self.folder.protocol is None else Reading.NETWORK

    def read(self, row: int) -> bytes:
        """Return the encoded image."""
        return self.folder.child(self.names[row]).read()

    def name(self, row: int) -> str:
        """Return the name of an image for messages."""
        return self.folder.child(self.names[row]).name

    def blocks(self) -> Tensor | None:
        """Return None, because every file is read separately."""
        return None

    def marks(self) -> Marks:
        """Return a hash of the name of each image, and the image's size."""
        names = (self.names[row] for row in range(len(self.names)))
        hashes = np.fromiter((xxhash.xxh3_64_intdigest(os.fsencode(name)) for name in names), np.uint64)
        return Marks(self.classes, self.targets.numpy(), np.stack([hashes.view(np.int64), self.sizes], axis=1))

    def origins(self, rows: Tensor) -> Origins:
        """Return the files of the images at `rows` ([samples] int64)."""
        return Origins(ImageNames(self, len(self.names)), rows.int())


def read_image_folder(data: ImageFolderData, root: str) -> Table:
    """Return the images of a folder, including its validation and test folders.

    Raises:
        DataError: There are no images, validation or test images have a class that the training images lack, or two
            folders stand for the same split.
    """
    folder = find(data.path, root, _FIELD)
    names = [Path(inner.path).name for inner in folder.folders()] if folder.is_folder() else []
    own = find_splits(names, f"{_FIELD}: {folder.name}")
    left = Counter[str]()
    if "train" not in own:
        train, classes = _read(folder, data, None, left)
        return Table(
            train,
            classes,
            notes=(
                *_notes([folder], classes, left),
                *note_splits_used_as_classes(own, f"{_FIELD}: {folder.name}"),
            ),
        )
    others = [place for place in folder.folders() if Path(place.path).name not in own.values()]
    check_no_other_folders(
        [Path(place.path).name for place in others if _images(place, Counter())],
        own["train"],
        f"{_FIELD}: {folder.name}",
    )
    train, classes = _read(folder.child(own["train"]), data, None, left)
    test, validation = (
        _read(folder.child(own[name]), data, classes, left)[0] if name in own else None
        for name in ("test", "validation")
    )
    splits = [folder.child(name) for name in own.values()]
    return Table(train, classes, test, validation, notes=_notes(splits, classes, left))


def _notes(splits: list[Location], classes: tuple[str, ...], left: Counter[str]) -> tuple[str, ...]:
    """Return notes about ignored files, images without a class, and classes that look the same.

    Args:
        splits: The folders of classes.
        classes: The classes.
        left: Number of ignored files by extension.
    """
    loose = [file for split in splits for file in split.own_files() if Path(file).suffix.lower() in SUFFIXES]
    unclassified = (
        [f"{_FIELD}: {len(loose):,} images, such as {loose[0]}, are ignored, because they are in no folder of a class"]
        if loose
        else []
    )
    return (
        *note_ignored_files(left.elements(), _FIELD, "image extensions"),
        *unclassified,
        *note_alike(classes, _FIELD),
    )


def _read(
    folder: Location, data: ImageFolderData, known: tuple[str, ...] | None, left: Counter[str]
) -> tuple[Pictures, tuple[str, ...]]:
    """Return the images of a split and its classes; count ignored files by extension in `left`."""
    inner = folder.folders()
    if not inner:
        raise DataError(f"{_FIELD}: {folder.name} contains no folders of classes")
    found = {Path(place.path).name: _images(place, left) for place in inner}
    classes = known or tuple(sorted(found))
    for name, paths in found.items():
        if name not in classes:
            raise DataError(f"{_FIELD}: {folder.name} has the class {name!r}, which the training images lack")
        if known is None and not paths:
            raise DataError(f"{_FIELD}: the folder of class {name!r} in {folder.name} contains no images")
    counts = [len(found.get(name, ())) for name in classes]
    if not sum(counts):
        raise DataError(f"{_FIELD}: {folder.name} contains no images")
    targets = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor(counts))
    files = [file for label in classes for file in found.get(label, ())]
    start = len(folder.path.rstrip("/")) + 1
    names, sizes = Names(file.path[start:] for file in files), np.array([file.size or 0 for file in files])
    images = ImageFiles(folder, names, sizes, classes, targets)
    return Pictures(images, torch.arange(len(images.names)), targets, data, _FIELD), classes


def _images(place: Location, left: Counter[str]) -> list[Location]:
    """Return the images of a class or a split; count ignored files by extension in `left`."""
    files = place.files()
    suffixes = [Path(file.path).suffix.lower() for file in files]
    left.update(suffix for suffix in suffixes if suffix not in SUFFIXES)
    return [file for file, suffix in zip(files, suffixes, strict=True) if suffix in SUFFIXES]
