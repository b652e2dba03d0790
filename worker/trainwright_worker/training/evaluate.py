"""Measuring the model on data it was not trained on: exact sums over all ranks, no sample counted twice.

Each rank measures every size-th sample; shares may differ by one. What is added up is brought together once, at the end.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trainwright.api.spec.evaluation import MetricName
from trainwright_worker.batch import Batch
from trainwright_worker.data.loader import read_ahead
from trainwright_worker.data.table import Split
from trainwright_worker.distributed.group import Group
from trainwright_worker.distributed.parallel import share_buffers
from trainwright_worker.training.measures import Measure

Forward = Callable[[Batch], Tensor]
"""Maps a batch to the model's outputs, float32."""


def evaluate(
    model: nn.Module,
    forward: Forward,
    samples: Split,
    group: Group,
    measures: Sequence[Measure],
    batch: int,
    beat: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return the figures of the model on one split.

    Args:
        model: The model, put into evaluation mode for the while.
        forward: The model's forward pass in the precision of the job.
        samples: The whole split, scaled, the same on every rank.
        group: All ranks, which must all call this.
        measures: What to measure, the loss first; fresh ones.
        batch: Samples per forward pass.
        beat: Called after every batch, as a sign of life.

    Returns:
        The figures by name. If the loss is not finite, that alone: nothing else would mean anything.
    """
    mine, rounds = _shares(len(samples), group, batch)
    # As many forward passes on every rank, which sharded models need: one with nothing left repeats a sample for nobody.
    requests = ((indices, None) for indices in mine + [torch.zeros(1, dtype=torch.int64)] * (rounds - len(mine)))
    share_buffers(model, group)
    model.eval()
    with torch.inference_mode():
        for number, part in enumerate(read_ahead(samples, requests, group.device)):
            outputs = forward(part)
            for measure in measures if number < len(mine) else ():
                measure.add(outputs, part)
            beat()
    model.train()
    figures = measures[0].figures(group)
    if math.isfinite(figures[MetricName.LOSS]):
        for measure in measures[1:]:
            figures |= measure.figures(group)
    return figures


def _shares(samples: int, group: Group, batch: int) -> tuple[list[Tensor], int]:
    """Return this rank's samples, batch by batch, and the largest number of batches that any rank has."""
    mine = torch.arange(samples)[group.rank :: group.size]
    longest = -(-samples // group.size)
    return [part for part in torch.split(mine, batch) if len(part)], -(-longest // batch)
