"""Splits of images that are decoded and augmented on demand."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.corpora import Pictures as Form
from trainwright.api.spec.preparation import AugmentationSpec, Normalize
from trainwright_worker.batch import Batch
from trainwright_worker.data.augment import augment, center
from trainwright_worker.data.measured import Measured
from trainwright_worker.data.normalization import Normalization, imagenet
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.pixels import PIXEL_MAXIMUM, decode
from trainwright_worker.data.ragged import Array, Scratch
from trainwright_worker.data.table import Reading

CHECKED: Final = 2048
"""Maximum number of images that are decoded before training, to measure their normalization and find damaged ones."""
CHECKED_BLOCKS: Final = 16
"""Number of blocks of large remote files that are read for this."""


@dataclass(frozen=True)
class Marks:
    """Data that identifies encoded images without decoding them, for fingerprints.

    Attributes:
        pieces: Names of the files or folders of the images.
        piece: Index of the file or folder of each image ([images] int64).
        values: Numbers that identify each image ([images] or [images, numbers]).
    """

    pieces: Sequence[str]
    piece: Array
    values: Array


class Images(Protocol):
    """Encoded images in a fixed order. Reading is thread-safe."""

    @property
    def reading(self) -> Reading:
        """How expensive reading is."""

    def read(self, row: int) -> bytes:
        """Return the encoded image of a row."""

    def name(self, row: int) -> str:
        """Return the name of an image for messages."""

    def blocks(self) -> Tensor | None:
        """Return groups of images that are best read together ([images] int64); None if order does not matter."""

    def marks(self) -> Marks:
        """Return data that identifies the images without decoding them."""

    def origins(self, rows: Tensor) -> Origins:
        """Return the origins of the images at `rows` ([samples] int64)."""


@dataclass(frozen=True)
class ImageNames(Sequence[str]):
    """The names of images, each of which is a file or an archive member."""

    images: Images
    total: int

    def __len__(self) -> int:
        """Return the number of images."""
        return self.total

    def __getitem__(self, index: Any) -> Any:
        """Return the name of an image."""
        return self.images.name(index)


@dataclass(frozen=True)
class Pictures:
    """Images, each with a target.

    Attributes:
        images: The encoded images.
        rows: Indices of the images of this split ([samples] int64).
        targets: Class of each sample ([samples] int64), or its values ([samples, 1] float32, float64 until normalized).
        form: Size and channels of the model's inputs.
        field: Field of the spec that error messages name.
        normalization: Normalization of pixels from 0 to 255 and of the targets of a regression.
        augmentation: Random augmentation in training.
        seed: Seed of the augmentation.
    """

    images: Images
    rows: Tensor
    targets: Tensor
    form: Form
    field: str
    normalization: Normalization = Normalization()  # noqa: RUF009 - frozen
    augmentation: AugmentationSpec | None = None
    seed: int = 0

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (1 if self.form.grayscale else 3, self.form.size, self.form.size)

    @property
    def reading(self) -> Reading:
        """How expensive reading is."""
        return self.images.reading

    @property
    def origins(self) -> Origins:
        """The file and the row of each sample."""
        return self.images.origins(self.rows)

    def blocks(self) -> Tensor | None:
        """Return groups of samples that are best read together ([samples] int64); None if order does not matter."""
        found = self.images.blocks()
        return None if found is None else found[self.rows]

    def select(self, indices: Tensor) -> "Pictures":
        """Return the images at `indices` ([k] int64)."""
        return replace(self, rows=self.rows[indices], targets=self.targets[indices])

    def measure(self, spec: TrainingJobSpec, root: str) -> Measured:  # noqa: ARG002 - nothing else to read
        """Return the normalization of the images."""
        return Measured(normalization=measure_pictures(self, spec.dataset.normalize))

    def process(self, spec: TrainingJobSpec, measured: Measured, name: str, scratch: Scratch) -> "Pictures":  # noqa: ARG002
        """Return the same images with normalization, and augmentation when they are trained on."""
        targets = measured.normalization.apply_to_targets(self.targets)
        augmentation, seed = spec.dataset.augmentation, spec.training.seed
        return replace(
            self, targets=targets, normalization=measured.normalization, augmentation=augmentation, seed=seed
        )

    def take(self, indices: Tensor, epoch: int | None = None) -> Batch:
        """Return the samples at `indices` as images [k, channels, size, size].

        Raises:
            DataError: An image cannot be decoded.
        """
        inputs = np.empty((len(indices), *self.shape), np.float32)
        for place, row in enumerate(self.rows[indices].tolist()):
            self.normalization.write_image(self._picture(row, epoch), inputs[place])
        return Batch.of(torch.from_numpy(inputs), self.targets[indices])

    def _picture(self, row: int, epoch: int | None) -> Array:
        image = decode(self.images.read(row), self.images.name(row), self.field, grayscale=self.form.grayscale)
        size, resized = (self.form.size, self.form.size), self.form.resize or self.form.size
        if epoch is not None and self.augmentation is not None:
            draw = Random(f"{self.seed}/{epoch}/{row}")  # noqa: S311 - not for cryptography
            return augment(image, self.augmentation, size, resized, PIXEL_MAXIMUM, draw)
        return center(image, size, resized)


def measure_pictures(train: Pictures, spec: Normalize) -> Normalization:
    """Return the normalization of images, and check that they can be decoded.

    Args:
        train: The training split; up to CHECKED images of it are read.
        spec: Kind of normalization.

    Raises:
        DataError: An image cannot be decoded.
        UserError: ImageNet's normalization does not apply to these images.
    """
    plain = replace(train, normalization=Normalization(), augmentation=None)
    chosen = choose_some(len(plain), plain.blocks())
    with ThreadPoolExecutor(max(1, torch.get_num_threads()) * (8 if plain.reading == Reading.NETWORK else 1)) as pool:
        sums = np.sum(list(pool.map(lambda index: _moments(plain, index), torch.split(chosen, 1))), axis=0)
    found = _scaling(sums, len(chosen) * train.form.size**2, spec, train.shape[0])
    return found if spec == Normalize.NONE else found.with_targets(train.targets)


def choose_some(samples: int, blocks: Tensor | None) -> Tensor:
    """Return up to CHECKED samples, evenly spread ([k] int64), from only a few blocks if there are blocks."""
    if blocks is not None:
        spread = torch.linspace(0, int(blocks.max()), CHECKED_BLOCKS).round().to(torch.int64)
        candidates = torch.isin(blocks, spread).nonzero().flatten()
        near = candidates[blocks[candidates].argsort(stable=True)]
        return near[choose_some(len(near), None)] if len(near) else choose_some(samples, None)
    return torch.linspace(0, samples - 1, min(CHECKED, samples), dtype=torch.float64).round().to(torch.int64)


def _moments(pictures: Pictures, index: Tensor) -> Array:
    """Return the sum and the sum of squares of each channel ([2, channels] float64)."""
    pixels = pictures.take(index).input[0].numpy().astype(np.float64)
    return np.stack([pixels.sum((1, 2)), (pixels**2).sum((1, 2))])


def _scaling(sums: Array, pixels: int, spec: Normalize, channels: int) -> Normalization:
    match spec:
        case Normalize.NONE:
            return Normalization()
        case Normalize.IMAGENET:
            return imagenet(channels)
        case Normalize.UNIT:
            return Normalization((0.0,) * channels, (float(PIXEL_MAXIMUM),) * channels)
        case Normalize.STANDARD:
            mean = sums[0] / pixels
            deviation = np.sqrt(np.maximum(sums[1] / pixels - mean**2, 0))
            return Normalization(tuple(mean.tolist()), tuple(float(value) or 1.0 for value in deviation))
