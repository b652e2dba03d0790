"""Attributes a model's output for one sample to the parts of the sample, with three methods from captum.

The parts of a sample are its features, the tokens of a text, or the squares of a grid over an image. LIME and SHAP
treat the model as a function of which parts are present. An absent part is replaced by the mean of the training data in
rows and images, and removed from a text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainwright.api.spec.outcome import ExplanationMethod
from trainwright_worker.batch import Batch, run_model
from trainwright_worker.models.layers import IMAGE_DIMENSIONS

GRID: Final = 8
"""Maximum number of squares along a side of an image."""
TRIALS: Final = 500
"""Number of perturbed samples that LIME and SHAP evaluate, in addition to two per part."""
TRIALS_AT_ONCE: Final = 64
_RIDGE: Final = 1e-3


@dataclass(frozen=True)
class Subject:
    """The subject of an explanation: one output of a model for one sample.

    Attributes:
        model: The model, in evaluation mode.
        batch: The sample as a batch of one, on the model's device.
        answer: Index of the explained output.
        background: Replacement for absent parts: one input of the same shape, or the padding token ([1]).
    """

    model: nn.Module
    batch: Batch
    answer: int
    background: Tensor

    @property
    def tokens(self) -> bool:
        """Whether the sample is a text."""
        return not self.batch.input.is_floating_point()

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of the grid over an image; None for anything else."""
        if self.batch.input.dim() != 1 + IMAGE_DIMENSIONS:
            return None
        height, width = self.batch.input.shape[2:]
        side = -(-max(height, width) // GRID)
        return -(-height // side), -(-width // side)

    @property
    def parts(self) -> int:
        """Number of parts."""
        if self.tokens:
            return self.ids.numel()
        return self.grid[0] * self.grid[1] if self.grid is not None else self.batch.input[0].numel()

    @property
    def ids(self) -> Tensor:
        """The tokens of a text ([length])."""
        return self.batch.input[0] if self.batch.mask is None else self.batch.input[0][self.batch.mask[0]]

    def score(self, batch: Batch) -> Tensor:
        """Return the explained output for each sample of a batch, before any softmax ([batch])."""
        return run_model(self.model, batch)[:, self.answer]

    def with_parts(self, present: Tensor) -> Batch:
        """Return one variant of the sample per row of `present`, without the absent parts.

        Args:
            present: [k, parts], 1 for present parts, 0 for absent ones.
        """
        if self.tokens:
            return self._shorter_texts(present.bool())
        inputs = self.batch.input
        if self.grid is not None:
            height, width = inputs.shape[2:]
            side = -(-max(height, width) // GRID)
            squares = present.reshape(-1, 1, *self.grid).float()
            present = squares.repeat_interleave(side, 2).repeat_interleave(side, 3)[:, :, :height, :width]
        else:
            present = present.reshape(-1, *inputs.shape[1:])
        target = self.batch.target.repeat_interleave(len(present), 0)
        return Batch.of(torch.where(present.bool(), inputs, self.background), target)

    def _shorter_texts(self, present: Tensor) -> Batch:
        """Return the text once per row, without its absent tokens; an empty text becomes one padding token."""
        order = torch.sort((~present).byte(), dim=1, stable=True).indices
        mask = present.gather(1, order)
        mask[:, 0] = True
        kept = self.ids[order].masked_fill(~present.gather(1, order), int(self.background))
        return Batch.of(kept, self.batch.target.repeat_interleave(len(present), 0), mask)


def attribute(method: ExplanationMethod, subject: Subject, seed: int) -> Tensor:
    """Return the contribution of each part.

    Args:
        method: saliency, lime or shap.
        subject: What to explain.
        seed: Seed of the perturbations of LIME and SHAP.

    Returns:
        [parts], or for images [rows, columns] of the grid. Saliency is never negative, and has shape [height, width]
        for images.
    """
    if method == ExplanationMethod.SALIENCY:
        return _saliency(subject)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        found = _lime(subject) if method == ExplanationMethod.LIME else _shap(subject)
    return found if subject.grid is None else found.reshape(subject.grid)


def _saliency(subject: Subject) -> Tensor:
    """Return the magnitude of the gradient per feature, per pixel (strongest channel) or per token (embedding)."""
    from captum.attr import LayerGradientXActivation, Saliency  # noqa: PLC0415 - only explanations need it

    batch = subject.batch
    with (
        torch.enable_grad(),
        torch.backends.cudnn.flags(enabled=False),
    ):  # The recurrent layers of cuDNN compute gradients only in training mode.
        if not subject.tokens:
            score = _on_inputs(subject)
            gradient = Saliency(score).attribute(batch.input.clone().requires_grad_())[0].detach()
            strongest: Tensor = gradient.amax(0) if subject.grid is not None else gradient.flatten()
            return strongest
        layer = next(module for module in subject.model.modules() if isinstance(module, nn.Embedding))
        layer.weight.requires_grad_()
        gradients: Any = LayerGradientXActivation(_on_inputs(subject), layer, multiply_by_inputs=False).attribute(
            batch.input
        )
        layer.weight.requires_grad_(False)
        norms: Tensor = gradients[0].detach().norm(dim=1)
        return norms if batch.mask is None else norms[batch.mask[0]]


def _on_inputs(subject: Subject) -> Callable[[Tensor], Tensor]:
    batch = subject.batch
    return lambda inputs: subject.score(batch.with_input(inputs))


def _lime(subject: Subject) -> Tensor:
    from captum._utils.models.linear_model import SkLearnRidge  # noqa: PLC0415 - only explanations need it
    from captum.attr import Lime  # noqa: PLC0415 - the same

    return _try_parts(Lime(_on_parts(subject), interpretable_model=SkLearnRidge(alpha=_RIDGE)), subject)


def _shap(subject: Subject) -> Tensor:
    from captum.attr import KernelShap  # noqa: PLC0415 - only explanations need it

    if subject.parts == 1:  # KernelShap needs at least two parts; a single one causes all of the difference.
        scores = subject.score(subject.with_parts(_whole(subject).new_tensor([[1.0], [0.0]])))
        return scores[:1] - scores[1:]
    return _try_parts(KernelShap(_on_parts(subject)), subject)


def _on_parts(subject: Subject) -> Callable[[Tensor], Tensor]:
    return lambda present: subject.score(subject.with_parts(present))


def _try_parts(method: Any, subject: Subject) -> Tensor:
    whole = _whole(subject)
    found: Tensor = method.attribute(
        whole,
        baselines=torch.zeros_like(whole),
        n_samples=TRIALS + 2 * subject.parts,
        perturbations_per_eval=TRIALS_AT_ONCE,
    )
    return found[0].detach()


def _whole(subject: Subject) -> Tensor:
    return torch.ones(1, subject.parts, device=subject.batch.input.device)
