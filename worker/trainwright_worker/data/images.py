"""Reads images in two classic binary formats: MNIST's idx files (plain or gzip) and CIFAR-10's batches."""

import gzip
import math
import zlib

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec.sources import Cifar10Data, IdxData
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.table import Table
from trainwright_worker.errors import DataError
from trainwright_worker.files import Location, find

IMAGES_MAGIC = 2051
LABELS_MAGIC = 2049
GZIP_MAGIC = b"\x1f\x8b"
CIFAR_SHAPE = (3, 32, 32)
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read_idx(data: IdxData, root: str) -> Table:
    """Return the images and labels of idx files, with classes from 0 to the largest label.

    Raises:
        DataError: A file is missing or truncated, has the wrong magic number, or the counts differ.
    """
    field = "spec.dataset.idx"
    train = _read_pair(data.images, data.labels, root, (f"{field}.images", f"{field}.labels"))
    test = None
    if data.test_images is not None and data.test_labels is not None:
        test = _read_pair(data.test_images, data.test_labels, root, (f"{field}.testImages", f"{field}.testLabels"))
        if test.inputs.shape[1:] != train.inputs.shape[1:]:
            raise DataError(
                f"{field}.testImages: images of {_pixels(test.inputs)}, but {field}.images has {_pixels(train.inputs)}"
            )
    largest = max(int(part.targets.max()) for part in (train, test) if part is not None)
    return Table(train, tuple(str(label) for label in range(largest + 1)), test)


def read_cifar10(data: Cifar10Data, root: str) -> Table:
    """Return CIFAR-10 from its binary files, test_batch.bin as the test samples.

    Raises:
        DataError: A file is missing or truncated, or contains a label above 9.
    """
    field = "spec.dataset.cifar10.path"
    train, test = (
        _to_samples([_read_batch(f"{data.path}/{name}.bin", root, field) for name in names])
        for names in ([f"data_batch_{number}" for number in range(1, 6)], ["test_batch"])
    )
    return Table(train, CIFAR_CLASSES, test)


def _read_pair(images: str, labels: str, root: str, fields: tuple[str, str]) -> Samples:
    place = find(images, root, fields[0])
    pixels = _read_array(place, IMAGES_MAGIC, dimensions=3)
    classes = _read_array(find(labels, root, fields[1]), LABELS_MAGIC, dimensions=1)
    if len(pixels) != len(classes):
        raise DataError(f"{fields[1]}: {len(classes)} labels in {labels} for {len(pixels)} images in {images}")
    if not len(pixels):
        raise DataError(f"{fields[0]}: {images} contains no images")
    origins = Origins.of_file(place.name, _numbered(len(pixels)))
    return Samples(pixels.unsqueeze(1).to(torch.float32), classes.to(torch.int64), origins=origins)


def _read_array(path: Location, magic: int, dimensions: int) -> Tensor:
    content = _read_bytes(path)
    header = 4 * (1 + dimensions)
    numbers = np.frombuffer(content[:header], dtype=">u4") if len(content) >= header else np.zeros(1, dtype=">u4")
    if numbers[0] != magic:
        raise DataError(
            f"{path.field}: {path.name} begins with the number {int.from_bytes(content[:4], 'big')}, but an idx file of this "
            f"kind begins with {magic}",
            "check that images and labels are not swapped and that the file is complete",
        )
    shape = [int(size) for size in numbers[1:]]
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise DataError(f"{path.field}: {path.name} has {len(content)} bytes, but {expected} according to its header")
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape).copy())


def _read_bytes(path: Location) -> bytes:
    content = path.read()
    try:
        return gzip.decompress(content) if content[:2] == GZIP_MAGIC else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.field}: cannot read {path.name}: {error}") from error


def _read_batch(name: str, root: str, field: str) -> tuple[str, Tensor]:
    """Return the name of a file and its records, each a label followed by pixels ([images, 3073] uint8)."""
    path = find(name, root, field)
    content = _read_bytes(path)
    record = 1 + math.prod(CIFAR_SHAPE)
    if not content or len(content) % record:
        raise DataError(f"{field}: {name} has {len(content)} bytes, not a multiple of {record}", "download it again")
    records = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).reshape(-1, record).copy())
    largest = int(records[:, 0].max())
    if largest >= len(CIFAR_CLASSES):
        raise DataError(f"{field}: {name} contains the label {largest}, but CIFAR-10's labels end at 9")
    return path.name, records


def _to_samples(batches: list[tuple[str, Tensor]]) -> Samples:
    records = torch.cat([records for _, records in batches])
    pixels = records[:, 1:].to(torch.float32).reshape(-1, *CIFAR_SHAPE)
    origins = Origins.of_files([(name, _numbered(len(records))) for name, records in batches])
    return Samples(pixels, records[:, 0].to(torch.int64), origins=origins)


def _numbered(count: int) -> Tensor:
    """Return the numbers of the images of a file, starting at 1 ([count] int64)."""
    return torch.arange(1, count + 1)


def _pixels(images: Tensor) -> str:
    return "x".join(str(size) for size in images.shape[1:])
