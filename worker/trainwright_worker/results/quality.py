"""Measures the quality of an exported model by running the exported file on held-out samples."""

import math
from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor

from trainwright_worker.batch import Batch
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.data.table import Split
from trainwright_worker.tasks.measures import LossSum, SingleProcess
from trainwright_worker.tasks.task import Task

MEASURED: Final = 4096
"""Maximum number of samples for measuring an export: precise to about one percent, and fast enough on a CPU."""
BATCH: Final = 64


def evenly(total: int, count: int) -> Tensor:
    """Return at most `count` indices spread evenly over `total` samples, ascending ([k] int64)."""
    return torch.linspace(0, total - 1, min(count, total), dtype=torch.float64).round().long()


def batches(split: Split, count: int, size: int = BATCH) -> Iterator[Batch]:
    """Yield at most `count` samples of a split, spread evenly over it, in batches of at most `size`."""
    for part in torch.split(evenly(len(split), count), size):
        yield split.take(part)


def measure(model: Callable[[Batch], Tensor], split: Split, task: Task, dataset: Dataset) -> dict[str, float]:
    """Return the loss and metrics of a model on a split.

    Args:
        model: Maps a batch on the CPU to outputs (float32).
        split: The samples.
        task: The task of the model.
        dataset: The job's data.

    Returns:
        `samples`, `loss`, and the other metrics of the job that are finite on these samples.
    """
    cpu, facts = torch.device("cpu"), task.facts(dataset)
    deviation = dataset.normalization.target_deviation
    measures = [LossSum(task.evaluation_loss(facts), cpu), *task.measures(facts, deviation, cpu)]
    samples, figures = 0, dict[str, float]()
    for batch in batches(split, MEASURED):
        outputs = model(batch)
        samples += len(batch)
        for one in measures:
            one.add(outputs, batch)
    for one in measures:
        figures |= one.figures(SingleProcess())
    return {"samples": samples, **{name: value for name, value in task.report(figures).items() if math.isfinite(value)}}
