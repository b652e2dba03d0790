"""How good an exported model is, on samples it was not trained on: of the file that others will run, not of training."""

from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from trainwright.api.spec.job import Task
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.data.table import Split

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


def measure(model: Callable[[Batch], Tensor], split: Split, task: Task, deviation: float) -> dict[str, float]:
    """Return how well a model does on a split.

    Args:
        model: Maps a batch on the CPU to outputs.
        split: The samples.
        task: What the outputs mean.
        deviation: Standard deviation of a regression's targets, in whose units mae is given.

    Returns:
        `samples`, and for classes and tokens `loss` and `accuracy`, for numbers `loss` and `mae`.
    """
    samples, sums, count = 0, torch.zeros(2, dtype=torch.float64), 0
    for batch in batches(split, MEASURED):
        outputs, targets = model(batch).double(), batch.targets
        samples += len(batch)
        if task == Task.REGRESSION:
            errors = outputs - targets
            sums += torch.stack([errors.square().sum(), errors.abs().sum()])
            count += errors.numel()
        elif task != Task.TRANSCRIPTION:
            real = targets != IGNORED
            outputs, targets = outputs[real], targets[real]
            hits = (outputs.argmax(-1) == targets).sum()
            sums += torch.stack([F.cross_entropy(outputs, targets, reduction="sum"), hits.double()])
            count += len(targets)
    if not count:
        return {"samples": samples}
    loss, second = (sums / count).tolist()
    if task == Task.REGRESSION:
        return {"samples": samples, "loss": loss, "mae": second * deviation}
    return {"samples": samples, "loss": loss, "accuracy": second}
