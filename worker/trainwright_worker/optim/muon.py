"""One optimizer that uses Muon for the hidden matrices of a model and AdamW for all other weights."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import Parameter
from torch.optim import AdamW, Muon, Optimizer

MATRIX = 2


def hidden_matrices(model: nn.Module) -> set[Parameter]:
    """Return the weights for Muon: the matrices between the embeddings and the output layer.

    The output layer is the last linear layer of the model, unless the model shares its output matrix with an embedding
    (`head = None`): then the last linear layer is a hidden layer.
    """
    outer = {part.weight for part in model.modules() if isinstance(part, nn.Embedding)}
    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    if linear and getattr(model, "head", linear) is not None:
        outer.add(linear[-1].weight)
    return {weight for weight in model.parameters() if weight.dim() == MATRIX} - outer


class MuonWithAdamW(Optimizer):
    """Muon and AdamW as one optimizer with one state.

    Muon's steps are scaled to the size of AdamW's (Liu et al., 2025, arXiv:2502.16982), so both use the same learning
    rate.
    """

    def __init__(
        self,
        hidden: Iterable[Parameter],
        other: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        """Create both optimizers.

        Args:
            hidden: Matrices for Muon.
            other: Groups of all other weights for AdamW, with the weight decay of each.
            lr: Learning rate of both.
            momentum: Momentum of Muon.
            betas: Decay of AdamW's running means.
            eps: Added to AdamW's denominator.
            weight_decay: Weight decay of Muon.
        """
        matrices = list(hidden)
        self._parts: list[Optimizer] = []
        if matrices:
            self._parts.append(
                Muon(matrices, lr=lr, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw")
            )
        groups = [group for group in other if group["params"]]
        if groups:
            self._parts.append(AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Take a step with both."""
        for part in self._parts:
            part.step()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Make both optimizers use this optimizer's groups and state."""
        begin = 0
        for part in self._parts:
            end = begin + len(part.param_groups)
            part.state, part.param_groups = self.state, self.param_groups[begin:end]
            begin = end
