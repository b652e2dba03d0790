"""A moving average of the weights (EMA), which is evaluated and exported in their place."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_PREFIX = "average."


class WeightAverage:
    """The average of all weights that are trained; what is not trained needs none."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the weights as they are.

        Args:
            model: The model.
            decay: Share of the average that a step keeps, once enough steps are done.
        """
        named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._names = list(named)
        self._weights: list[Tensor] = list(named.values())
        self._averages = [weight.detach().clone() for weight in self._weights]
        self._decay = decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after so many steps."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the averages for a while."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange weights and averages, one by one, so that it takes little memory."""
        for weight, average in zip(self._weights, self._averages, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold, by name."""
        return {_PREFIX + name: average for name, average in zip(self._names, self._averages, strict=True)}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` returned; begin anew with the model's weights if it holds no averages."""
        for name, weight, average in zip(self._names, self._weights, self._averages, strict=True):
            average.copy_(state.get(_PREFIX + name, weight))
