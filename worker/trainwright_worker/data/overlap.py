"""Files of their own for validation and test that are also trained on: figures of them would mean nothing."""

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
from trainwright_worker.data.shards import Shards
from trainwright_worker.data.table import Part, Table
from trainwright_worker.errors import DataError


def refuse_overlap(table: Table, data: DatasetSpec) -> None:
    """Refuse a file for validation or test that is one of the training files, under whatever name or link.

    Args:
        table: The data as it was read.
        data: Where it comes from.

    Raises:
        DataError: There is one.
    """
    for split, part in (("validation", table.validation), ("test", table.test)):
        if part is None:
            continue
        own = {_identity(name): name for name in _files(part, table.samples)}
        shared = next((name for name in _files(table.samples, part) if _identity(name) in own), None)
        if shared is not None:
            found = own[_identity(shared)]
            alias = "" if shared == found else f", as {shared}"
            raise DataError(
                f"{_field(data, split)}: {found} is also one of the training files{alias}",
                "choose training files without it, with a folder or a pattern of their own, or hold samples out with "
                "spec.dataset.split",
            )


def _files(part: Part, other: Part) -> Iterable[str]:
    """Return the files of a part, or those of them that may be files of the other part, too."""
    match part:
        case Texts():
            return (place.name for place in part.store.places)
        case Samples() | Frames():
            return () if part.origins is None else part.origins.files
        case Pictures(images=Shards() as shards):
            return (place.name for place in shards.places)
        case Pictures(images=ImageFiles() as images):
            return _of_like_size(images, other)
    return ()


def _of_like_size(images: ImageFiles, other: Part) -> Iterator[str]:
    """Yield the names of images of the same size as one of the other part: to ask the system for all takes a while."""
    match other:
        case Pictures(images=ImageFiles() as others):
            return (images.name(row) for row in np.flatnonzero(np.isin(images.sizes, others.sizes)).tolist())
    return iter(())


def _identity(name: str) -> Hashable:
    """Return what is the same for all names of a file."""
    if is_uri(name):
        return name
    try:
        found = os.stat(name)  # noqa: PTH116 - a million of them
    except OSError:  # Its name is in an old encoding.
        return name
    return found.st_dev, found.st_ino


def _field(data: DatasetSpec, split: str) -> str:
    """Return the field that names the files of a split."""
    fields = [field for field, _ in list_paths(data, "spec.dataset")]
    return next((field for field in fields if field.rpartition(".")[2].startswith(split)), fields[0])
