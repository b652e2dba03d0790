"""Images in tar files (WebDataset): members are indexed once by the headers, then read at random by their place."""

import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec.corpora import WebDatasetData
from trainwright_worker.data.blocks import BLOCK_BYTES, BlockReader
from trainwright_worker.data.labels import Labels
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.pictures import ImageNames, Marks, Pictures
from trainwright_worker.data.ragged import Array, Names, Scratch
from trainwright_worker.data.splits import say_left_out
from trainwright_worker.data.table import Reading, Table
from trainwright_worker.errors import DataError
from trainwright_worker.files import Location, find_all, list_left_out

_FIELD: Final = "spec.dataset.webdataset"
_THREADS: Final = 8
_AHEAD_BYTES: Final = 1 << 20
"""How much of a remote shard is fetched at once for its headers: what is beyond that in a large member is skipped. To skip
small members too would take a request for each, which takes longer than to fetch them."""
_RULE: Final = "files of the same name up to the first dot make up a sample, and what follows that dot is the extension"


@dataclass(frozen=True)
class _Index:
    """What a shard holds.

    Attributes:
        samples: Where each image begins and ends, its label, and its name.
        left: Names of images that belong to no sample, since their names have another dot.
    """

    samples: list[tuple[int, int, str, str]]
    left: list[str]


@dataclass(frozen=True)
class Shards:
    """Images inside of tar files.

    Attributes:
        places: The files.
        shard: Which file each image lies in ([images]).
        begin: Where it begins, in bytes ([images]).
        end: Where it ends ([images]).
        names: What each image is called in its file.
        sizes: Size of each file, in bytes ([files]).
        reader: What reads remote files.
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
        """Return how to speak of an image: its name below that of its file."""
        return f"{self.places[self.shard[row]].name}/{self.names[row]}"

    def marks(self) -> Marks:
        """Return where each image lies in its file."""
        return Marks([place.name for place in self.places], self.shard, np.stack([self.begin, self.end], axis=1))

    def origins(self, rows: Tensor) -> Origins:
        """Return the files and the names of some images ([samples] int64)."""
        return Origins(ImageNames(self, len(self.shard)), rows.int())

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
    train, labels, notes = _open(data, data.path, root, "path", scratch)
    classes = labels.classes()

    def own(path: str | None, key: str) -> Pictures | None:
        if path is None:
            return None
        shards, found, said = _open(data, path, root, key, scratch)
        notes.extend(said)
        return _pictures(shards, found.index(classes, f"{_FIELD}.{key}"), data, key)

    test, validation = own(data.test_path, "testPath"), own(data.validation_path, "validationPath")
    samples = _pictures(train, labels.index(classes, _FIELD), data, "path")
    return Table(samples, classes, test, validation, notes=tuple(notes))


def _pictures(shards: Shards, targets: Tensor, data: WebDatasetData, key: str) -> Pictures:
    return Pictures(shards, torch.arange(len(targets)), targets, data, f"{_FIELD}.{key}")


def _open(data: WebDatasetData, path: str, root: str, key: str, scratch: Scratch) -> tuple[Shards, Labels, list[str]]:
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
            parts = list(pool.map(lambda place: _samples(place, data), places))
        rows = [(shard, *sample) for shard, part in enumerate(parts) for sample in part.samples]
        places_of = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3)
        labels = np.array([row[3] for row in rows], np.str_)
        text, ends_of_names = Names(row[4] for row in rows).arrays()
        left = np.array([name for part in parts for name in part.left], np.str_)
        ends = {"shard": places_of[:, 0], "begin": places_of[:, 1], "end": places_of[:, 2]}
        return {**ends, "labels": labels, "left": left, "names": text, "ends of names": ends_of_names}

    found = scratch.arrays(["index of shards and names", stamps, data.image, data.label], index)
    if not len(found["labels"]):
        raise DataError(f"{_FIELD}.{key}: {path} holds no samples", _RULE)
    sizes = [int(stamp[1]) for stamp in stamps]
    names = Names.from_arrays(found["names"], found["ends of names"])
    shards = Shards(places, found["shard"], found["begin"], found["end"], names, sizes, BlockReader())
    left = found["left"]
    others = say_left_out(list_left_out(path, root, f"{_FIELD}.{key}", (".tar",)), f"{_FIELD}.{key}", "not .tar")
    notes = [f"{_FIELD}.{key}: {len(left):,} images, as {str(left[0])!r}, are left out: {_RULE}"] if len(left) else []
    return shards, Labels(found["labels"].tolist()), [*notes, *others]


def _samples(place: Location, data: WebDatasetData) -> _Index:
    """Return where each image of a shard begins and ends, with its label."""
    images: dict[str, tuple[int, int, str]] = {}
    labels: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    with place.open(_AHEAD_BYTES) as file, place.reading():
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    folder, _, name = member.name.rpartition("/")
                    stem, _, extension = name.partition(".")
                    if not member.isfile() or not stem:
                        continue
                    sample = f"{folder}/{stem}".lstrip("/")
                    if extension.lower() in data.image:
                        _check_first(sample, images, place, "images", "image")
                        images[sample] = (member.offset_data, member.offset_data + member.size, member.name)
                    elif extension == data.label:
                        _check_first(sample, labels, place, "labels", "label")
                        content = archive.extractfile(member)
                        labels[sample] = "" if content is None else content.read().decode(errors="replace").strip()
                    elif extension.rpartition(".")[2].lower() in data.image:
                        others.append((sample, member.name))
                _check_end(archive, file, place)
        except tarfile.TarError as error:
            raise DataError(f"{place.field}: {place.name} is no whole tar file: {error}") from error
    for sample in images:
        if not labels.get(sample):
            raise DataError(f"{place.field}: the sample {sample!r} in {place.name} has no .{data.label}")
    if lonely := labels.keys() - images.keys():
        wanted = ", ".join(f".{extension}" for extension in data.image)
        raise DataError(f"{place.field}: the sample {min(lonely)!r} in {place.name} has none of {wanted}")
    samples = [(begin, end, labels[sample], name) for sample, (begin, end, name) in images.items()]
    return _Index(samples, [name for sample, name in others if sample not in images])


def _check_first(sample: str, found: dict[str, Any], place: Location, what: str, key: str) -> None:
    """Refuse a sample whose image or label was found before: nobody knows which is meant."""
    if sample in found:
        raise DataError(
            f"{place.field}: the sample {sample!r} in {place.name} has two {what}",
            f"give samples names of their own, or choose one extension with {_FIELD}.{key}",
        )


def _check_end(archive: tarfile.TarFile, file: BinaryIO, place: Location) -> None:
    """Refuse a shard that does not end where its members do: tarfile takes damage for the end."""
    file.seek(archive.offset)
    rest = file.read(2 * tarfile.RECORDSIZE)
    if len(rest) < tarfile.BLOCKSIZE or any(rest):
        raise DataError(
            f"{place.field}: {place.name} is no whole tar file: what is at byte {archive.offset:,} is neither a member "
            "nor the end",
            "write or fetch it again; tar files cannot be joined by writing one after the other",
        )
