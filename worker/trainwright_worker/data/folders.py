"""Images in one folder per class."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec.corpora import ImageFolderData
from trainwright_worker.data.files import Location, find
from trainwright_worker.data.pictures import Pictures
from trainwright_worker.data.ragged import Array
from trainwright_worker.data.table import Reading, Table
from trainwright_worker.errors import DataError

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_FIELD: Final = "spec.dataset.imageFolder.path"


class Names:
    """Many strings in little memory: millions of paths are not worth a Python object each."""

    def __init__(self, names: Iterable[str]) -> None:
        parts = [name.encode() for name in names]
        self._ends: Array = np.cumsum([0, *map(len, parts)])
        self._text = b"".join(parts)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        """Return one."""
        return self._text[self._ends[index] : self._ends[index + 1]].decode()


@dataclass(frozen=True)
class ImageFiles:
    """A file per image.

    Attributes:
        folder: The folder under which all lie.
        names: Their paths from there.
    """

    folder: Location
    names: Names

    @property
    def reading(self) -> Reading:
        """What makes reading take its time."""
        return Reading.DECODING if self.folder.protocol is None else Reading.NETWORK

    def read(self, row: int) -> bytes:
        """Return an encoded image."""
        return self.folder.child(self.names[row]).read()

    def name(self, row: int) -> str:
        """Return how to speak of an image in an error."""
        return self.folder.child(self.names[row]).name

    def blocks(self) -> Tensor | None:
        """Return None: every file is read by itself."""
        return None


def read_image_folder(data: ImageFolderData, root: str) -> Table:
    """Return the images of a folder, and those of its own validation and test folders.

    Raises:
        DataError: There are no images, or a class of the validation or test images is none of the training images.
    """
    folder = find(data.path, root, _FIELD)
    names = [Path(inner.path).name for inner in folder.folders()] if folder.is_folder() else []
    if "train" not in names:
        train, classes = _read(folder, data, None)
        return Table(train, classes)
    train, classes = _read(folder.child("train"), data, None)
    own = {name: _read(folder.child(name), data, classes)[0] for name in ("test", "val", "validation") if name in names}
    return Table(train, classes, own.get("test"), own.get("val", own.get("validation")))


def _read(folder: Location, data: ImageFolderData, known: tuple[str, ...] | None) -> tuple[Pictures, tuple[str, ...]]:
    inner = folder.folders()
    if not inner:
        raise DataError(f"{_FIELD}: {folder.name} holds no folder of a class")
    found = {Path(place.path).name: _images(place, folder) for place in inner}
    classes = known or tuple(sorted(found))
    for name, paths in found.items():
        if name not in classes:
            raise DataError(f"{_FIELD}: {folder.name} has the class {name!r}, which the training images have not")
        if known is None and not paths:
            raise DataError(f"{_FIELD}: the folder of the class {name!r} in {folder.name} holds no images")
    counts = [len(found.get(name, ())) for name in classes]
    if not sum(counts):
        raise DataError(f"{_FIELD}: {folder.name} holds no images")
    targets = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor(counts))
    images = ImageFiles(folder, Names(name for label in classes for name in found.get(label, ())))
    return Pictures(images, torch.arange(len(images.names)), targets, data, _FIELD), classes


def _images(place: Location, folder: Location) -> list[str]:
    """Return the images of a class by their paths from the folder of all classes."""
    start = len(folder.path.rstrip("/")) + 1
    return [file.path[start:] for file in place.files() if Path(file.path).suffix.lower() in SUFFIXES]
