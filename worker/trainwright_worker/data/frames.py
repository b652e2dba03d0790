"""Sequences of frames, each with a transcript."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.preparation import Normalize
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.data.measured import Measured
from trainwright_worker.data.normalization import Normalization
from trainwright_worker.data.origin import Origins
from trainwright_worker.data.ragged import Ragged, Scratch
from trainwright_worker.data.sequences import pad, round_up
from trainwright_worker.data.table import Reading
from trainwright_worker.errors import UserError


@dataclass(frozen=True)
class Frames:
    """Sequences of frames, each with a transcript.

    Attributes:
        frames: Frames of every sequence of the source ([total, features]), not normalized.
        transcripts: Code points of every transcript ([total]).
        rows: Indices of the sequences of this split ([samples] int64).
        normalization: Normalization of the frames.
        max_length: Number of frames of the longest sample.
        classes: Code points of the characters in the order of their classes. The target of a character is its class +
            1, because 0 is CTC's blank.
        fixed: Whether to pad every batch to the longest sample of all, rather than of the batch.
        origins: File and row of each sample.
    """

    frames: Ragged
    transcripts: Ragged
    rows: Tensor
    normalization: Normalization
    max_length: int
    classes: tuple[int, ...] = ()
    fixed: bool = False
    origins: Origins | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    def select(self, indices: Tensor) -> "Frames":
        """Return the sequences at `indices` ([k] int64)."""
        return replace(
            self, rows=self.rows[indices], origins=None if self.origins is None else self.origins.select(indices)
        )

    def measure(self, spec: TrainingJobSpec, root: str) -> Measured:  # noqa: ARG002 - nothing else to read
        """Return the normalization of the frames."""
        return Measured(normalization=measure_frames(self, spec.dataset.normalize))

    def process(self, spec: TrainingJobSpec, measured: Measured, name: str, scratch: Scratch) -> "Frames":  # noqa: ARG002
        """Return normalized frames, with transcripts as classes."""
        classes = tuple(map(ord, measured.classes or ()))
        return replace(self, normalization=measured.normalization, classes=classes, fixed=spec.training.compile)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (self.max_length, self.frames.values.shape[1])

    @property
    def reading(self) -> Reading:
        """How expensive reading is."""
        return Reading.INSTANT

    def take(self, indices: Tensor, epoch: int | None = None) -> Batch:  # noqa: ARG002 - nothing is augmented here
        """Return the samples at `indices` as frames [k, length, features] with their mask."""
        rows = self.rows[indices].tolist()
        frames = [self.frames.row(row) for row in rows]
        if self.normalization.mean:
            mean, deviation = (
                np.array(part, np.float32) for part in (self.normalization.mean, self.normalization.deviation)
            )
            frames = [(part - mean) / deviation for part in frames]
        transcripts = [np.searchsorted(self.classes, self.transcripts.row(row)) + 1 for row in rows]
        length = self.max_length if self.fixed else round_up(max(map(len, frames)), self.max_length)
        inputs, mask = pad(frames, length, 0.0)
        targets, _ = pad(transcripts, max(map(len, transcripts)), IGNORED)
        return Batch.of(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(mask))


def measure_frames(train: Frames, spec: Normalize) -> Normalization:
    """Return the normalization of frames per feature, measured on the training split in float64.

    Raises:
        UserError: The normalization is for images.
    """
    if spec == Normalize.NONE:
        return Normalization()
    if spec == Normalize.IMAGENET:
        raise UserError("spec.dataset.normalize: imagenet, but the data has no images")
    width = train.frames.values.shape[1]
    count, total, squares = 0, np.zeros(width), np.zeros(width)
    least, most = np.full(width, np.inf), np.full(width, -np.inf)
    # Relative to the first frame, constant features are exactly 0. With larger values, rounding would leave a
    # deviation.
    origin = train.frames.row(int(train.rows[0]))[0].astype(np.float64)
    for number in train.rows.tolist():
        row = train.frames.row(number).astype(np.float64) - origin
        count += len(row)
        total += row.sum(0)
        squares += (row**2).sum(0)
        least, most = np.minimum(least, row.min(0)), np.maximum(most, row.max(0))
    offset = least if spec == Normalize.UNIT else total / count
    spread = most - least if spec == Normalize.UNIT else np.sqrt(np.maximum(squares / count - offset**2, 0))
    mean = origin + offset
    return Normalization(tuple(mean.tolist()), tuple(float(value) or 1.0 for value in spread))
