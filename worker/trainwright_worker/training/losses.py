"""What is minimised: the loss of a batch, plus the penalties of the spec."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from trainwright.api.spec import LossSpec, RegularizationSpec
from trainwright.api.spec.objective import LossName
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.distributed.parallel import whole

Loss = Callable[[Tensor, Batch], Tensor]
"""Maps the model's outputs for a batch (float32) to their mean loss, a scalar."""

BLANK: Final = 0
"""The class that stands for "no character here" in transcription."""


def make_loss(name: LossName, spec: LossSpec | None = None, known: int | None = None) -> Loss:
    """Return the loss of that name, averaged over whatever `count_targets` counts.

    Args:
        name: The loss.
        spec: Its settings; None for the defaults.
        known: How many of a model's outputs stand for something, if it may have more. Without label smoothing the others
            count, since training soon has them say nothing, and a copy of all outputs that matter is spared.
    """
    smoothing = _smoothing(spec)
    return _make(name, spec, smoothing, known if smoothing else None)


def make_measure(name: LossName, spec: LossSpec | None = None, known: int | None = None) -> Loss:
    """Return the loss as evaluations measure it: without label smoothing, which is a remedy and no measure.

    What takes part in no training with smoothing has no part in its measure either, see `make_loss`.
    """
    return _make(name, spec, 0.0, known if _smoothing(spec) else None)


def _smoothing(spec: LossSpec | None) -> float:
    return (spec.label_smoothing if spec is not None else None) or 0.0


def _make(name: LossName, spec: LossSpec | None, smoothing: float, known: int | None) -> Loss:
    delta = (spec.delta if spec is not None else None) or 1.0
    losses: dict[LossName, Loss] = {
        LossName.CROSS_ENTROPY: partial(_cross_entropy, smoothing=smoothing, known=known),
        LossName.BCE: _binary_cross_entropy,
        LossName.MSE: lambda outputs, batch: F.mse_loss(outputs, batch.targets),
        LossName.L1: lambda outputs, batch: F.l1_loss(outputs, batch.targets),
        LossName.HUBER: lambda outputs, batch: F.huber_loss(outputs, batch.targets, delta=delta),
        LossName.CTC: _ctc,
    }
    return losses[name]


def count_targets(batch: Batch) -> int | Tensor:
    """Return what the loss of a batch is the mean over: its samples, or the tokens of it that count (int64 scalar)."""
    if batch.targets.dim() == batch.inputs.dim() == 2 and not batch.targets.is_floating_point():  # noqa: PLR2004
        return (batch.targets != IGNORED).sum()
    return len(batch)


def probabilities(outputs: Tensor, name: LossName) -> Tensor:
    """Return what outputs for classes say, trained with the loss of that name: one of them is right, or each may be."""
    return outputs.sigmoid() if name == LossName.BCE else outputs.softmax(-1)


def make_penalty(spec: RegularizationSpec, parameters: Iterable[nn.Parameter]) -> Callable[[], Tensor] | None:
    """Return a function that computes the L1 and L2 penalties of the current weights, or None if there are none.

    Biases are left alone: shrinking them costs accuracy and prevents nothing.
    """
    weights = [parameter for parameter in parameters if parameter.dim() > 1 and parameter.requires_grad]
    if not (spec.l1 or spec.l2):
        return None

    def penalty() -> Tensor:
        terms = [spec.l1 * weight.abs().sum() for weight in weights if spec.l1]
        terms += [spec.l2 / 2 * weight.square().sum() for weight in weights if spec.l2]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        # Of sharded weights every rank sums its part.
        return whole(total)

    return penalty


def frame_lengths(outputs: Tensor, batch: Batch) -> Tensor:
    """Return how many frames of each sample's outputs are real ([batch] int64).

    A model may give fewer frames than it gets; lengths shrink with them, rounded up.
    """
    frames = outputs.shape[1]
    if batch.mask is None:
        return torch.full((len(batch),), frames, device=outputs.device)
    given = batch.mask.shape[1]
    return (batch.mask.sum(1) * frames + given - 1) // given


def _cross_entropy(outputs: Tensor, batch: Batch, smoothing: float, known: int | None) -> Tensor:
    """Compare logits [batch, classes] with classes, or [batch, length, tokens] with tokens, of which some do not count."""
    outputs = outputs if known is None else outputs[..., :known]
    if outputs.dim() == batch.targets.dim() + 1 and batch.targets.dim() > 1:
        total = F.cross_entropy(
            outputs.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED, reduction="sum",
            label_smoothing=smoothing,
        )  # fmt: skip
        # Parts of a batch may have no token that counts; their loss is 0, not 0/0.
        return total / (batch.targets != IGNORED).sum().clamp(min=1)
    return F.cross_entropy(outputs, batch.targets, label_smoothing=smoothing)


def _binary_cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    """Ask every class by itself whether it is the one."""
    return F.binary_cross_entropy_with_logits(outputs, F.one_hot(batch.targets, outputs.shape[1]).to(outputs.dtype))


def _ctc(outputs: Tensor, batch: Batch) -> Tensor:
    """Sum over all ways in which frames [batch, frames, classes] can spell the target.

    A target that is longer than its frames cannot be spelt; it counts as 0 instead of making the loss infinite.
    """
    return F.ctc_loss(
        outputs.log_softmax(2).transpose(0, 1),
        batch.targets,
        frame_lengths(outputs, batch),
        (batch.targets != IGNORED).sum(1),
        blank=BLANK,
        zero_infinity=True,
    )
