"""Splits of images that are decoded and changed as they are asked for."""

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
"""Images that are decoded before training begins: to measure their scaling, and to find out what cannot be decoded."""
CHECKED_BLOCKS: Final = 16
"""Blocks of large remote files that are fetched for this."""


@dataclass(frozen=True)
class Marks:
    """What tells encoded images apart without decoding them.

    Attributes:
        pieces: Names of the files or folders in which they lie.
        piece: In which of them each image lies ([images] int64).
        values: Numbers that follow from what an image is ([images] or [images, numbers]).
    """

    pieces: Sequence[str]
    piece: Array
    values: Array


class Images(Protocol):
    """Encoded images in a fixed order. Reading is safe from any thread."""

    @property
    def reading(self) -> Reading:
        """What makes reading take its time."""

    def read(self, row: int) -> bytes:
        """Return an encoded image."""

    def name(self, row: int) -> str:
        """Return how to speak of an image in an error."""

    def blocks(self) -> Tensor | None:
        """Return which images lie beside each other and are best read together ([images] int64); None if it is all one."""

    def marks(self) -> Marks:
        """Return what tells the images apart without decoding them."""

    def origins(self, rows: Tensor) -> Origins:
        """Return where some images ([samples] int64) come from."""


@dataclass(frozen=True)
class ImageNames(Sequence[str]):
    """What images are called, each in a file or a member of its own."""

    images: Images
    total: int

    def __len__(self) -> int:
        """Return how many there are."""
        return self.total

    def __getitem__(self, index: Any) -> Any:
        """Return the name of one."""
        return self.images.name(index)


@dataclass(frozen=True)
class Pictures:
    """Images with a target each.

    Attributes:
        images: Where they are.
        rows: Which of these images belong here ([samples] int64).
        targets: Class of each sample ([samples] int64), or its values ([samples, 1] float32, float64 until scaled).
        form: The size and the channels that the model wants.
        field: Field of the spec that led here, for errors.
        normalization: How pixels from 0 to 255 are scaled, and the targets of a regression.
        augmentation: What is changed at random in training.
        seed: Seed of these changes.
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
        """What makes reading take its time."""
        return self.images.reading

    @property
    def origins(self) -> Origins:
        """Where each sample comes from."""
        return self.images.origins(self.rows)

    def blocks(self) -> Tensor | None:
        """Return which samples are best read together ([samples] int64); None if any may be."""
        found = self.images.blocks()
        return None if found is None else found[self.rows]

    def select(self, indices: Tensor) -> "Pictures":
        """Return the images at `indices` ([k] int64)."""
        return replace(self, rows=self.rows[indices], targets=self.targets[indices])

    def measure(self, spec: TrainingJobSpec, root: str) -> Measured:  # noqa: ARG002 - they are where the reader found them
        """Return their scaling."""
        return Measured(normalization=measure_pictures(self, spec.dataset.normalize))

    def process(self, spec: TrainingJobSpec, measured: Measured, name: str, scratch: Scratch) -> "Pictures":  # noqa: ARG002
        """Return the same images, scaled, and changed at random when they are trained on."""
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
            draw = Random(f"{self.seed}/{epoch}/{row}")  # noqa: S311 - nothing secret
            return augment(image, self.augmentation, size, resized, PIXEL_MAXIMUM, draw)
        return center(image, size, resized)


def measure_pictures(train: Pictures, spec: Normalize) -> Normalization:
    """Return the scaling of images, and see on the way that they can be decoded.

    Args:
        train: The training split; up to CHECKED images of it are read.
        spec: How to scale.

    Raises:
        DataError: An image cannot be decoded.
        UserError: The images are not ones that ImageNet's numbers describe.
    """
    plain = replace(train, normalization=Normalization(), augmentation=None)
    chosen = choose_some(len(plain), plain.blocks())
    with ThreadPoolExecutor(max(1, torch.get_num_threads()) * (8 if plain.reading == Reading.NETWORK else 1)) as pool:
        sums = np.sum(list(pool.map(lambda index: _moments(plain, index), torch.split(chosen, 1))), axis=0)
    found = _scaling(sums, len(chosen) * train.form.size**2, spec, train.shape[0])
    return found if spec == Normalize.NONE else found.with_targets(train.targets)


def choose_some(samples: int, blocks: Tensor | None) -> Tensor:
    """Return up to CHECKED samples, evenly spread ([k] int64); where they lie in blocks, those of a few blocks."""
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
