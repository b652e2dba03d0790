"""What is to be predicted: a split of the data, or inputs that the spec itself gives, as if they were one."""

from dataclasses import dataclass

from torch import Tensor

from trainwright.api.spec import PredictionSpec
from trainwright_worker.batch import Batch
from trainwright_worker.data.dataset import Dataset, existing_split
from trainwright_worker.data.table import LARGEST, Reading, Split
from trainwright_worker.errors import UserError


@dataclass(frozen=True)
class Given:
    """Inputs without truths.

    Attributes:
        batch: All of them.
        texts: What they were before they became tokens; None if they were no texts.
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
        """What makes reading take its time: nothing."""
        return Reading.INSTANT

    @property
    def origins(self) -> None:
        """The file and the row of each sample: the spec itself gives them."""

    def take(self, indices: Tensor, epoch: int | None = None) -> Batch:  # noqa: ARG002 - nothing is trained on here
        """Return the samples at `indices`."""
        return self.batch.select(indices)


def samples_to_predict(spec: PredictionSpec, dataset: Dataset) -> tuple[Split, bool]:
    """Return what to predict, and whether the truth is known.

    Raises:
        UserError: The split is empty, or what is given does not fit the data.
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
                    raise UserError(f"spec.prediction.inputs[{index}][{place}]: {value:g} is beyond 32-bit numbers")
        return Given(dataset.batch_of_rows(spec.inputs)), False
    return existing_split(dataset, spec.split or "test", "spec.prediction.split"), True
