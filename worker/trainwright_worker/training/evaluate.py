"""Evaluates the model on a split, with exact sums over all ranks and without counting a sample twice.

With n ranks, each evaluates every n-th sample, so shares may differ by one. Sums are reduced once, at the end.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from trainwright.api.figures import Evaluation
from trainwright.api.spec.evaluation import MetricName
from trainwright_worker.batch import Batch
from trainwright_worker.data.loader import read_ahead
from trainwright_worker.data.sampler import largest_pass
from trainwright_worker.data.table import Split
from trainwright_worker.distributed.group import Group
from trainwright_worker.distributed.parallel import share_buffers
from trainwright_worker.errors import NON_FINITE_HINT, NonFiniteError
from trainwright_worker.tasks.measures import LossSum, Measure
from trainwright_worker.training.run import Run

Forward = Callable[[Batch], Tensor]
"""Maps a batch to the model's outputs, float32."""

SMALLEST_EVALUATION_BATCH: Final = 256
"""Minimum number of samples per forward pass of an evaluation, if samples are small."""
SMALL_SAMPLE: Final = 4096
"""Maximum number of elements of a small sample."""


def measure_split(run: Run, name: str, step: int | None = None) -> Evaluation | None:
    """Evaluate the model on a split; return None if there is no such split. All ranks must call this.

    Args:
        run: This rank.
        name: validation or test.
        step: Step of the model's weights; the current step by default.

    Raises:
        NonFiniteError: The loss is not finite.
    """
    splits = run.data.dataset.splits
    samples = splits.validation if name == "validation" else splits.test
    if samples is None:
        return None
    step = run.progress.step if step is None else step
    learner, facts, device = run.learner, run.data.facts, run.group.device
    measures = [
        LossSum(learner.task.evaluation_loss(facts), device),
        *learner.task.measures(facts, run.data.dataset.normalization.target_deviation, device),
    ]
    beat = run.telemetry.pulse.beat
    batch = evaluation_batch(run)
    figures = evaluate(learner.model, learner.engine.forward, samples, run.group, measures, batch, beat)
    if not math.isfinite(figures[MetricName.LOSS]):
        raise NonFiniteError(f"the loss on the {name} split is not finite at step {step}", NON_FINITE_HINT)
    figures = learner.task.report(figures)
    metrics = {metric: value for metric, value in figures.items() if math.isfinite(value)}
    undefined = [metric for metric in figures if metric not in metrics]
    shown = [f"{metric} {value:.4g}" for metric, value in metrics.items()]
    run.telemetry.log(f"step {step}: {name} {', '.join(shown + [f'{metric} undefined' for metric in undefined])}")
    if undefined:
        run.telemetry.warn(
            f"{', '.join(undefined)} of the {name} split: undefined, because its targets do not vary enough",
            topic=f"undefined on {name}",
        )
    return Evaluation(split=name, step=step, metrics=metrics, undefined=undefined or None)


def evaluation_batch(run: Run) -> int:
    """Return the number of samples per forward pass of an evaluation: as in training, or more if samples are small."""
    facts = run.data.facts
    usual = largest_pass(run.spec, run.data.sampler.batch)
    small = facts.vocabulary is None and math.prod(facts.shape) <= SMALL_SAMPLE
    return max(usual, SMALLEST_EVALUATION_BATCH) if small else usual


def evaluate(
    model: nn.Module,
    forward: Forward,
    samples: Split,
    group: Group,
    measures: Sequence[Measure],
    batch: int,
    beat: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return the metrics of the model on one split.

    Args:
        model: The model; it is in evaluation mode during this call, and in training mode afterwards.
        forward: The model's forward pass in the precision of the job.
        samples: The whole processed split, the same on every rank.
        group: All ranks, which must all call this.
        measures: New accumulators of loss and metrics, with the loss first.
        batch: Number of samples per forward pass.
        beat: Called after every batch, as a heartbeat.

    Returns:
        The metrics by name. If the loss is not finite, only the loss, because other metrics would be meaningless.
    """
    mine, rounds = _shares(len(samples), group, batch)
    # Sharded models need the same number of forward passes on every rank, so a rank without samples left repeats one
    # that is not counted.
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
    """Return this rank's batches of indices, and the largest number of batches of any rank."""
    mine = torch.arange(samples)[group.rank :: group.size]
    longest = -(-samples // group.size)
    return [part for part in torch.split(mine, batch) if len(part)], -(-longest // batch)
