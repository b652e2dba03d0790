"""The samples to predict: a split of the data, or inputs in the spec in the form of a split."""

from dataclasses import dataclass

from torch import Tensor

from trainwright.api.spec import PredictionSpec
from trainwright_worker.batch import Batch
from trainwright_worker.data.dataset import Dataset, existing_split
from trainwright_worker.data.table import LARGEST, Reading, Split
from trainwright_worker.errors import UserError


@dataclass(frozen=True)
class Given:
    """Inputs from the spec, without targets.

    Attributes:
        batch: All inputs.
        texts: The original texts; None if the inputs are not texts.
    """

    batch: Batch
    texts: list[str] | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.batch)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.batch.input.shape[1:])

    @property
    def reading(self) -> Reading:
        """How expensive reading is."""
        return Reading.INSTANT

    @property
    def origins(self) -> None:
        """None, because the samples come from the spec."""

    def take(self, indices: Tensor, epoch: int | None = None) -> Batch:  # noqa: ARG002 - nothing is trained on here
        """Return the samples at `indices`."""
        return self.batch.select(indices)


def samples_to_predict(spec: PredictionSpec, dataset: Dataset) -> tuple[Split, bool]:
    """Return the samples to predict, and whether their targets are known.

    Raises:
        UserError: The split is empty, or the given inputs do not fit the data.
    """
    if spec.texts is not None:
        return Given(dataset.batch_of_texts(spec.texts), spec.texts), False
    if spec.inputs is not None:
        features = dataset.splits.train.shape[0]
        for index, row in enumerate(spec.inputs):
            if len(row) != features:
                raise UserError(
                    f"spec.prediction.inputs[{index}]: {len(row)} numbers, but the data has {features} features"
                )
            for place, value in enumerate(row):
                if abs(value) > LARGEST:
                    raise UserError(
                        f"spec.prediction.inputs[{index}][{place}]: {value:g} exceeds the range of 32-bit numbers"
                    )
        return Given(dataset.batch_of_rows(spec.inputs)), False
    return existing_split(dataset, spec.split or "test", "spec.prediction.split"), True
