"""Measuring the model on data it was not trained on: exact sums over all ranks, no sample counted twice.

Each rank measures every size-th sample; shares may differ by one. Sums are kept in float64 and added up once.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from trainwright_worker.batch import Batch
from trainwright_worker.data.loader import read_ahead
from trainwright_worker.data.normalization import Normalization
from trainwright_worker.data.table import Split
from trainwright_worker.distributed import Group

Forward = Callable[[Batch], Tensor]
"""Maps a batch to the model's outputs, float32."""


def evaluate(
    model: nn.Module,
    forward: Forward,
    samples: Split,
    group: Group,
    normalization: Normalization,
    batch: int,
    *,
    classify: bool,
) -> dict[str, float]:
    """Return the metrics of the model on one split.

    Args:
        model: The model, put into evaluation mode for the while.
        forward: The model's forward pass in the precision of the job.
        samples: The whole split, scaled, the same on every rank.
        group: All ranks, which must all call this.
        normalization: Turns errors of a regression back into the units of its target.
        batch: Samples per forward pass.
        classify: Whether the targets are classes.

    Returns:
        For classes: loss and accuracy. For a regression: loss (scaled), and mae and r2 in the units of the target.
    """
    measure = _sum_classes if classify else _sum_values
    sums = torch.zeros(5, dtype=torch.float64, device=group.device)
    model.eval()
    with torch.inference_mode():
        for part in _batches(samples, group, batch):
            sums += measure(forward(part), part.targets)
    model.train()
    count, loss, *rest = group.sum(sums.tolist())
    if classify:
        return {"loss": loss / count, "accuracy": rest[0] / count}
    absolute, target, squares = rest
    spread = squares - target**2 / count
    return {
        "loss": loss / count,
        "mae": absolute / count * normalization.target_deviation,
        # Without spread there is nothing to explain: 0 by convention, as a constant prediction would get.
        "r2": 1 - loss / spread if spread > 0 else 0.0,
    }


def _batches(samples: Split, group: Group, batch: int) -> Iterator[Batch]:
    mine = torch.split(torch.arange(group.rank, len(samples), group.size), batch)
    return read_ahead(samples, ((indices, None) for indices in mine), group.device)


def _sum_classes(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return count, loss and hits of a batch, padded to five numbers."""
    loss = F.cross_entropy(outputs, targets, reduction="none").double().sum()
    hits = (outputs.argmax(1) == targets).sum()
    return torch.stack([torch.full_like(loss, len(targets)), loss, hits.double(), loss * 0, loss * 0])


def _sum_values(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return count, squared error, absolute error, and sum and sum of squares of the targets."""
    errors, targets = (outputs - targets).double(), targets.double()
    count = torch.full((), len(targets), dtype=torch.float64, device=outputs.device)
    return torch.stack([count, errors.square().sum(), errors.abs().sum(), targets.sum(), targets.square().sum()])
