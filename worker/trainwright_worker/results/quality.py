"""How good an exported model is, on samples it was not trained on: of the file that others will run, not of training."""

from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor

from trainwright.api.spec import TrainingJobSpec
from trainwright_worker.batch import Batch
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.data.table import Split
from trainwright_worker.training.losses import make_measure
from trainwright_worker.training.measures import Alone, make_measures, shown_figures

MEASURED: Final = 4096
"""Most samples on which an exported model is measured: enough for a percent, few enough for a CPU."""
BATCH: Final = 64


def evenly(total: int, count: int) -> Tensor:
    """Return at most `count` indices spread evenly over `total` samples, ascending ([k] int64)."""
    return torch.linspace(0, total - 1, min(count, total), dtype=torch.float64).round().long()


def batches(split: Split, count: int, size: int = BATCH) -> Iterator[Batch]:
    """Yield at most `count` samples of a split, spread evenly over it, in batches of at most `size`."""
    for part in torch.split(evenly(len(split), count), size):
        yield split.take(part)


def measure(model: Callable[[Batch], Tensor], split: Split, job: TrainingJobSpec, dataset: Dataset) -> dict[str, float]:
    """Return how well a model does on a split, by the measures of the job that it is of.

    Args:
        model: Maps a batch on the CPU to outputs (float32).
        split: The samples.
        job: The job.
        dataset: Its data.

    Returns:
        `samples`, `loss`, and the other figures that the job's evaluations have.
    """
    deviation = dataset.normalization.target_deviation
    loss = make_measure(job.loss_name, job.loss, dataset.facts.outputs)
    measures = make_measures(job, loss, dataset.facts.outputs, deviation, torch.device("cpu"))
    samples, figures = 0, dict[str, float]()
    for batch in batches(split, MEASURED):
        outputs = model(batch)
        samples += len(batch)
        for one in measures:
            one.add(outputs, batch)
    for one in measures:
        figures |= one.figures(Alone())
    return {"samples": samples, **shown_figures(job, figures)}
