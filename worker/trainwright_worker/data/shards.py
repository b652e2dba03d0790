"""Reads images in tar files (WebDataset): the headers are indexed once, then images are read by their position."""

import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec.corpora import WebDatasetData
from trainwright.api.spec.preparation import MissingTargets
from trainwright_worker.data.blocks import BLOCK_BYTES, BlockReader
from trainwright_worker.data.cells import Faults, Gaps, Rows
from trainwright_worker.data.labels import Labels
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.pictures import ImageNames, Marks, Pictures
from trainwright_worker.data.ragged import Array, Names, Scratch
from trainwright_worker.data.splits import note_ignored_files
from trainwright_worker.data.table import Reading, Table
from trainwright_worker.data.texts import decode
from trainwright_worker.errors import DataError
from trainwright_worker.files import Location, find_all, list_ignored_files

_FIELD: Final = "spec.dataset.webdataset"
_THREADS: Final = 8
_AHEAD_BYTES: Final = 1 << 20
"""Bytes of a remote shard that one request reads while indexing. The rest of a larger member is skipped. Smaller
members are read, because skipping them would need a request for each, which is slower."""
_RULE: Final = "files with the same name up to the first dot form a sample, and the rest of the name is the extension"


@dataclass(frozen=True)
class _Index:
    """The index of a shard.

    Attributes:
        samples: Start, end, label and name of each image.
        left: Names of images that do not belong to a sample, because their names contain another dot.
    """

    samples: list[tuple[int, int, str, str]]
    left: list[str]


@dataclass(frozen=True)
class Shards:
    """Images in tar files.

    Attributes:
        places: The tar files.
        shard: Index of the file of each image ([images]).
        begin: Start of each image in its file, in bytes ([images]).
        end: End of each image in its file, in bytes ([images]).
        names: Name of each image in its file.
        sizes: Size of each file, in bytes ([files]).
        reader: Reads remote files in blocks.
    """

    places: list[Location]
    shard: Array
    begin: Array
    end: Array
    names: Names
    sizes: list[int]
    reader: BlockReader

    @property
    def reading(self) -> Reading:
        """How expensive reading is."""
        return Reading.DECODING if self.places[0].protocol is None else Reading.NETWORK

    def read(self, row: int) -> bytes:
        """Return the encoded image of a row."""
        shard, begin, end = int(self.shard[row]), int(self.begin[row]), int(self.end[row])
        place = self.places[shard]
        return (
            place.read(begin, end) if place.protocol is None else self.reader.read(place, begin, end, self.sizes[shard])
        )

    def name(self, row: int) -> str:
        """Return the name of an image for messages: the name of its file, and its name in it."""
        return f"{self.places[self.shard[row]].name}/{self.names[row]}"

    def marks(self) -> Marks:
        """Return the position of each image in its file."""
        return Marks([place.name for place in self.places], self.shard, np.stack([self.begin, self.end], axis=1))

    def origins(self, rows: Tensor) -> Origins:
        """Return the origins of the images at `rows` ([samples] int64)."""
        return Origins(ImageNames(self, len(self.shard)), rows.int())

    def blocks(self) -> Tensor | None:
        """Return the block of each image ([images] int64); None on a mounted volume, where order does not matter."""
        if self.places[0].protocol is None:
            return None
        block = self.begin // BLOCK_BYTES
        widest = int(block.max()) + 1 if len(block) else 1
        return torch.from_numpy(np.unique(self.shard * widest + block, return_inverse=True)[1])


def read_shards(data: WebDatasetData, root: str, scratch: Scratch, missing: MissingTargets) -> Table:
    """Return the images of shards with their labels as classes.

    Args:
        data: The shards, and the extensions of images and labels.
        root: Folder that relative paths are resolved against.
        scratch: Cache of the index.
        missing: What to do with images whose label is blank.

    Raises:
        DataError: A shard is missing or damaged, or a sample lacks its image or label.
    """
    reader = _Reader(data, root, scratch, missing)
    paths = {"path": data.path, "testPath": data.test_path, "validationPath": data.validation_path}
    found = {key: reader.open(path, key) for key, path in paths.items() if path is not None}
    reader.faults.check()
    for key, split in found.items():
        if not len(split.labels):
            raise DataError(f"{_FIELD}.{key}: {paths[key]} contains no samples with a label")
    labels = found["path"].labels
    labels.check_names(f".{data.label}", f"{_FIELD}.label")
    classes = labels.classes()
    parts = {
        key: Pictures(split.shards, split.kept, split.labels.index(classes, f"{_FIELD}.{key}"), data, f"{_FIELD}.{key}")
        for key, split in found.items()
    }
    notes = (*reader.notes, *labels.notes(f"{_FIELD}.label"))
    return Table(parts["path"], classes, parts.get("testPath"), parts.get("validationPath"), notes=notes)


@dataclass(frozen=True)
class _Split:
    """The images of a split, the indices of those with a label ([samples] int64), and their labels."""

    shards: Shards
    kept: Tensor
    labels: Labels


class _Reader:
    """Reads the index of every split, and collects notes and missing labels.

    Attributes:
        faults: Missing labels.
    """

    def __init__(self, data: WebDatasetData, root: str, scratch: Scratch, missing: MissingTargets) -> None:
        self.faults = Faults()
        self._data = data
        self._root = root
        self._scratch = scratch
        self._gaps = Gaps(missing, self.faults, f"{_FIELD}.label", f".{data.label}")
        self._notes: list[str] = []

    @property
    def notes(self) -> list[str]:
        """Notes about the data."""
        return [*self._notes, *self._gaps.notes()]

    def open(self, path: str, key: str) -> _Split:
        """Return the images at a path.

        Args:
            path: The path in the spec.
            key: Field of the source with this path.
        """
        field = f"{_FIELD}.{key}"
        places = find_all(path, self._root, field, (".tar",))
        for place in places:
            if place.compressed or place.suffix == ".tgz":
                raise DataError(
                    f"{field}: {place.name} is compressed, but images can only be read from an uncompressed .tar",
                    "decompress it; the images in it are already compressed",
                )
        stamps = [place.stamp() for place in places]
        key_of_index = ["index of shards, labels and names", stamps, self._data.image, self._data.label]
        found = self._scratch.arrays(key_of_index, lambda: _index(places, self._data))
        if not len(found["labels"]):
            raise DataError(f"{field}: {path} contains no samples", _RULE)
        if len(found["left"]):
            example = str(found["left"][0])
            self._notes.append(f"{field}: {len(found['left']):,} images, such as {example!r}, are ignored: {_RULE}")
        self._notes += note_ignored_files(list_ignored_files(path, self._root, field, (".tar",)), field, ".tar")
        sizes = [int(stamp[1]) for stamp in stamps]
        names = Names.from_arrays(found["names"], found["ends of names"])
        shards = Shards(places, found["shard"], found["begin"], found["end"], names, sizes, BlockReader())
        return self._labeled(shards, found["labels"].tolist())

    def _labeled(self, shards: Shards, texts: list[str]) -> _Split:
        files = [Rows("sample", place.name) for place in shards.places]
        first = np.searchsorted(shards.shard, np.arange(len(files)))
        labels, kept = Labels(), []
        for row, (text, shard) in enumerate(zip(texts, shards.shard.tolist(), strict=True)):
            if not self._gaps.record_if_missing(text, files[shard], row - int(first[shard]) + 1):
                labels.add(text)
                kept.append(row)
        return _Split(shards, torch.tensor(kept, dtype=torch.int64), labels)


def _index(places: list[Location], data: WebDatasetData) -> dict[str, Array]:
    """Return the index of some shards."""
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = list(pool.map(lambda place: _samples(place, data), places))
    rows = [(shard, *sample) for shard, part in enumerate(parts) for sample in part.samples]
    places_of = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
    labels = np.array([row[3] for row in rows], np.str_)
    text, ends_of_names = Names(row[4] for row in rows).arrays()
    left = np.array([name for part in parts for name in part.left], np.str_)
    ends = {"shard": places_of[:, 0], "begin": places_of[:, 1], "end": places_of[:, 2]}
    return {**ends, "labels": labels, "left": left, "names": text, "ends of names": ends_of_names}


def _samples(place: Location, data: WebDatasetData) -> _Index:
    """Return the index of a shard."""
    images: dict[str, tuple[int, int, str]] = {}
    labels: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    with place.open(_AHEAD_BYTES) as file, place.reading():
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    folder, _, name = member.name.rpartition("/")
                    stem, _, extension = name.partition(".")
                    if member.isdir() or not stem:
                        continue
                    _check_regular(member, place)
                    sample = f"{folder}/{stem}".lstrip("/")
                    if extension.lower() in data.image:
                        _check_first(sample, images, place, "images", "image")
                        images[sample] = (member.offset_data, member.offset_data + member.size, member.name)
                    elif extension == data.label:
                        _check_first(sample, labels, place, "labels", "label")
                        content = archive.extractfile(member)
                        name = f"{member.name!r} in {place.name}"
                        labels[sample] = "" if content is None else decode(content.read(), name, place.field).strip()
                    elif extension.rpartition(".")[2].lower() in data.image:
                        others.append((sample, member.name))
                _check_end(archive, file, place)
        except tarfile.TarError as error:
            raise DataError(f"{place.field}: {place.name} is not a complete tar file: {error}") from error
    for sample in images:
        if sample not in labels:
            raise DataError(f"{place.field}: the sample {sample!r} in {place.name} has no .{data.label}")
    if unmatched := labels.keys() - images.keys():
        wanted = ", ".join(f".{extension}" for extension in data.image)
        raise DataError(f"{place.field}: the sample {min(unmatched)!r} in {place.name} has no image ({wanted})")
    samples = [(begin, end, labels[sample], name) for sample, (begin, end, name) in images.items()]
    return _Index(samples, [name for sample, name in others if sample not in images])


def _check_regular(member: tarfile.TarInfo, place: Location) -> None:
    """Check that a member has a content of its own."""
    if not member.isfile():
        raise DataError(
            f"{place.field}: {member.name!r} in {place.name} is a link or a special file",
            "write the files themselves, for example with tar --dereference --hard-dereference",
        )


def _check_first(sample: str, found: dict[str, Any], place: Location, what: str, key: str) -> None:
    """Check that a sample does not already have an image or label, which would be ambiguous."""
    if sample in found:
        raise DataError(
            f"{place.field}: the sample {sample!r} in {place.name} has two {what}",
            f"give samples unique names, or choose one extension with {_FIELD}.{key}",
        )


def _check_end(archive: tarfile.TarFile, file: BinaryIO, place: Location) -> None:
    """Check that a shard ends after its last member, because tarfile treats a damaged header as the end."""
    file.seek(archive.offset)
    rest = file.read(2 * tarfile.RECORDSIZE)
    if len(rest) < tarfile.BLOCKSIZE or any(rest):
        raise DataError(
            f"{place.field}: {place.name} is not a complete tar file: byte {archive.offset:,} is neither the start "
            "of a member nor the end",
            "write or download it again; tar files cannot be joined by concatenation",
        )
