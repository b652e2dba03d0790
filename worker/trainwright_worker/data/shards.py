"""Images in tar files (WebDataset): members are indexed once by the headers, then read at random by their place."""

import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec.corpora import WebDatasetData
from trainwright_worker.data.blocks import BLOCK_BYTES, BlockReader
from trainwright_worker.data.files import Location, find_all
from trainwright_worker.data.labels import Labels
from trainwright_worker.data.pictures import Pictures
from trainwright_worker.data.ragged import Array, Scratch
from trainwright_worker.data.table import Reading, Table
from trainwright_worker.errors import DataError

_FIELD: Final = "spec.dataset.webdataset"
_THREADS: Final = 8
_AHEAD_BYTES: Final = 1 << 20
"""How much of a remote shard is fetched at once for its headers: what is beyond that in a large member is skipped. To skip
small members too would take a request for each, which takes longer than to fetch them."""


@dataclass(frozen=True)
class Shards:
    """Images inside of tar files.

    Attributes:
        places: The files.
        shard: Which file each image lies in ([images]).
        begin: Where it begins, in bytes ([images]).
        end: Where it ends ([images]).
        sizes: Size of each file, in bytes ([files]).
        reader: What reads remote files.
    """

    places: list[Location]
    shard: Array
    begin: Array
    end: Array
    sizes: list[int]
    reader: BlockReader

    @property
    def reading(self) -> Reading:
        """What makes reading take its time."""
        return Reading.DECODING if self.places[0].protocol is None else Reading.NETWORK

    def read(self, row: int) -> bytes:
        """Return an encoded image."""
        shard, begin, end = int(self.shard[row]), int(self.begin[row]), int(self.end[row])
        place = self.places[shard]
        return (
            place.read(begin, end) if place.protocol is None else self.reader.read(place, begin, end, self.sizes[shard])
        )

    def name(self, row: int) -> str:
        """Return how to speak of an image in an error."""
        return f"at byte {self.begin[row]} of {self.places[self.shard[row]].name}"

    def blocks(self) -> Tensor | None:
        """Return which images lie in the same block ([images] int64); None on a mounted volume, where all are near."""
        if self.places[0].protocol is None:
            return None
        block = self.begin // BLOCK_BYTES
        widest = int(block.max()) + 1 if len(block) else 1
        return torch.from_numpy(np.unique(self.shard * widest + block, return_inverse=True)[1])


def read_shards(data: WebDatasetData, root: str, scratch: Scratch) -> Table:
    """Return the images of shards with the classes that their labels spell.

    Raises:
        DataError: A shard is missing or damaged, or a sample lacks its image or label.
    """
    train, labels = _open(data, data.path, root, "path", scratch)
    classes = labels.classes()

    def own(path: str | None, key: str) -> Pictures | None:
        if path is None:
            return None
        shards, found = _open(data, path, root, key, scratch)
        return _pictures(shards, found.index(classes, f"{_FIELD}.{key}"), data, key)

    test, validation = own(data.test_path, "testPath"), own(data.validation_path, "validationPath")
    return Table(_pictures(train, labels.index(classes, _FIELD), data, "path"), classes, test, validation)


def _pictures(shards: Shards, targets: Tensor, data: WebDatasetData, key: str) -> Pictures:
    return Pictures(shards, torch.arange(len(targets)), targets, data, f"{_FIELD}.{key}")


def _open(data: WebDatasetData, path: str, root: str, key: str, scratch: Scratch) -> tuple[Shards, Labels]:
    places = find_all(path, root, f"{_FIELD}.{key}", (".tar",))
    for place in places:
        if place.compressed or place.suffix == ".tgz":
            raise DataError(
                f"{_FIELD}.{key}: {place.name} is compressed, and images can only be read at random from a plain .tar",
                "decompress it; the images in it are compressed already",
            )
    stamps = [place.stamp() for place in places]

    def index() -> dict[str, Array]:
        with ThreadPoolExecutor(_THREADS) as pool:
            parts = list(pool.map(lambda place: list(_samples(place, data)), places))
        rows = [(shard, *sample) for shard, part in enumerate(parts) for sample in part]
        places_of = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
        labels = np.array([row[3] for row in rows], np.str_)
        return {"shard": places_of[:, 0], "begin": places_of[:, 1], "end": places_of[:, 2], "labels": labels}

    found = scratch.arrays(["shards", stamps, data.image, data.label], index)
    if not len(found["labels"]):
        raise DataError(f"{_FIELD}.{key}: {path} holds no samples")
    sizes = [int(stamp[1]) for stamp in stamps]
    shards = Shards(places, found["shard"], found["begin"], found["end"], sizes, BlockReader())
    return shards, Labels(found["labels"].tolist())


def _samples(place: Location, data: WebDatasetData) -> Iterator[tuple[int, int, str]]:
    """Yield where each image of a shard begins and ends, and its label."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, str] = {}
    with place.open(_AHEAD_BYTES) as file, place.reading():
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    folder, _, name = member.name.rpartition("/")
                    stem, _, extension = name.partition(".")
                    if not member.isfile() or not stem:
                        continue
                    sample = f"{folder}/{stem}"
                    if extension.lower() in data.image:
                        images[sample] = (member.offset_data, member.offset_data + member.size)
                    elif extension == data.label:
                        content = archive.extractfile(member)
                        labels[sample] = "" if content is None else content.read().decode(errors="replace").strip()
        except tarfile.TarError as error:
            raise DataError(f"{place.field}: {place.name} is no whole tar file: {error}") from error
    for sample, (begin, end) in images.items():
        if not labels.get(sample):
            raise DataError(f"{place.field}: the sample {sample.lstrip('/')!r} in {place.name} has no .{data.label}")
        yield begin, end, labels[sample]
    if lonely := labels.keys() - images.keys():
        wanted = ", ".join(f".{extension}" for extension in data.image)
        raise DataError(f"{place.field}: the sample {min(lonely).lstrip('/')!r} in {place.name} has none of {wanted}")
