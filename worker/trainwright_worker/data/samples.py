"""Samples in memory: rows of features, and small images."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.preparation import AugmentationSpec
from trainwright_worker.batch import Batch
from trainwright_worker.data.augment import augment
from trainwright_worker.data.measured import Measured
from trainwright_worker.data.normalization import Normalization, measure_samples
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.ragged import Scratch
from trainwright_worker.data.table import Reading


@dataclass(frozen=True)
class Samples:
    """Inputs and their targets.

    Attributes:
        inputs: float32, [samples, features] or [samples, channels, height, width]; float64 if they come from a table
            and are not yet normalized.
        targets: int64 class indices [samples], or float32 values [samples, 1]; float64 as above.
        features: Name of each feature; None if they have no names.
        origins: File and row of each sample; None if unknown.
        units: Arrow types of each column of times; values are in the unit of the first type.
    """

    inputs: Tensor
    targets: Tensor
    features: tuple[str, ...] | None = None
    origins: Origins | None = None
    units: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inputs)

    def select(self, indices: Tensor) -> "Samples":
        """Return the samples at `indices` ([k] int64), copied."""
        return replace(
            self,
            inputs=self.inputs.index_select(0, indices),
            targets=self.targets.index_select(0, indices),
            origins=None if self.origins is None else self.origins.select(indices),
        )

    def take(self, indices: Tensor, epoch: int | None = None) -> Batch:  # noqa: ARG002 - nothing is augmented here
        """Return the samples at `indices` ([k] int64) as a batch."""
        return Batch.of(self.inputs.index_select(0, indices), self.targets.index_select(0, indices))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.inputs.shape[1:])

    @property
    def reading(self) -> Reading:
        """How expensive reading is."""
        return Reading.INSTANT

    def to(self, device: torch.device) -> "Samples":
        """Return the samples on `device`."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def scaled(self, normalization: Normalization) -> "Samples":
        """Return normalized samples; inputs are changed in place, because large ones may not fit in memory twice."""
        inputs, targets = normalization.apply_to_inputs(self.inputs), normalization.apply_to_targets(self.targets)
        return replace(self, inputs=inputs, targets=targets)

    def measure(self, spec: TrainingJobSpec, root: str) -> Measured:  # noqa: ARG002 - nothing else to read
        """Return the normalization of the samples."""
        return Measured(normalization=measure_samples(self.inputs, self.targets, spec.dataset.normalize))

    def process(
        self,
        spec: TrainingJobSpec,
        measured: Measured,
        name: str,
        scratch: Scratch,  # noqa: ARG002 - nothing else to read
    ) -> "Samples | AugmentedSamples":
        """Return normalized samples; training images are also augmented if the spec enables it."""
        augmentation = spec.dataset.augmentation
        if name != "train" or augmentation is None:
            return self.scaled(measured.normalization)
        brightest = float(self.inputs.max())
        return AugmentedSamples(self, measured.normalization, augmentation, spec.training.seed, brightest)


@dataclass(frozen=True)
class AugmentedSamples:
    """Images in memory that are augmented in training.

    Attributes:
        samples: The images, not normalized.
        normalization: Normalization of the images.
        augmentation: Random augmentation in training.
        seed: Seed of the augmentation.
        maximum: Largest value of a pixel.
    """

    samples: Samples
    normalization: Normalization
    augmentation: AugmentationSpec
    seed: int
    maximum: float

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.samples.shape

    @property
    def reading(self) -> Reading:
        """How expensive reading is."""
        return Reading.DECODING

    @property
    def origins(self) -> Origins | None:
        """File and row of each sample; None if unknown."""
        return self.samples.origins

    def take(self, indices: Tensor, epoch: int | None = None) -> Batch:
        """Return the samples at `indices` as images [k, channels, height, width]."""
        if epoch is None:
            return self.samples.select(indices).scaled(self.normalization).take(torch.arange(len(indices)))
        inputs = np.empty((len(indices), *self.shape), np.float32)
        images = self.samples.inputs.numpy()
        size = (self.shape[1], self.shape[2])
        for place, row in enumerate(indices.tolist()):
            draw = Random(f"{self.seed}/{epoch}/{row}")  # noqa: S311 - not for cryptography
            image = images[row].transpose(1, 2, 0)
            changed = augment(image, self.augmentation, size, min(size), self.maximum, draw)
            self.normalization.write_image(changed, inputs[place])
        return Batch.of(torch.from_numpy(inputs), self.samples.targets[indices])
