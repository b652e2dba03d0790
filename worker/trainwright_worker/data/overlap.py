"""Checks that the files for validation and test are not also training files, which would make metrics meaningless."""

import os
from collections.abc import Hashable, Iterable, Iterator

import numpy as np

from trainwright.api.spec import DatasetSpec
from trainwright.api.spec.paths import is_uri, list_paths
from trainwright_worker.data.corpus import Texts
from trainwright_worker.data.folders import ImageFiles
from trainwright_worker.data.frames import Frames
from trainwright_worker.data.pictures import Pictures
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.saved import SavedImages
from trainwright_worker.data.shards import Shards
from trainwright_worker.data.table import Part, Table
from trainwright_worker.errors import DataError


def check_overlap(table: Table, data: DatasetSpec) -> None:
    """Check that no file for validation or test is also a training file, even under another name or link.

    Args:
        table: The unprocessed data.
        data: The dataset of the spec.

    Raises:
        DataError: There is such a file.
    """
    for split, part in (("validation", table.validation), ("test", table.test)):
        if part is None:
            continue
        own = {_identity(name): name for name in _files(part, table.samples)}
        shared = next((name for name in _files(table.samples, part) if _identity(name) in own), None)
        if shared is not None:
            found = own[_identity(shared)]
            alias = "" if shared == found else f", under the name {shared}"
            raise DataError(
                f"{_field(data, split)}: {found} is also one of the training files{alias}",
                "exclude it from the training files, for example with separate folders, or hold out samples with "
                "spec.dataset.split",
            )


def _files(part: Part, other: Part) -> Iterable[str]:
    """Return the files of a part, except those that cannot also be files of the other part."""
    match part:
        case Texts():
            return (place.name for place in part.store.places)
        case Samples() | Frames():
            return () if part.origins is None else part.origins.files
        case Pictures(images=Shards() | SavedImages() as images):
            return (place.name for place in images.places)
        case Pictures(images=ImageFiles() as images):
            return _of_like_size(images, other)
    return ()


def _of_like_size(images: ImageFiles, other: Part) -> Iterator[str]:
    """Yield the names of images that have the same size as an image of the other part, to limit the system calls."""
    match other:
        case Pictures(images=ImageFiles() as others):
            return (images.name(row) for row in np.flatnonzero(np.isin(images.sizes, others.sizes)).tolist())
    return iter(())


def _identity(name: str) -> Hashable:
    """Return a value that is the same for all names of a file."""
    if is_uri(name):
        return name
    try:
        found = os.stat(name)  # noqa: PTH116 - fast enough for a million files
    except OSError:  # A name that is not valid UTF-8 is escaped, so the system does not find it.
        return name
    return found.st_dev, found.st_ino


def _field(data: DatasetSpec, split: str) -> str:
    """Return the field that names the files of a split."""
    fields = [field for field, _ in list_paths(data, "spec.dataset")]
    return next((field for field in fields if field.rpartition(".")[2].startswith(split)), fields[0])
