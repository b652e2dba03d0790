"""A moving average of the weights (EMA), which is evaluated and exported in their place.

Running statistics are averaged along: those of the newest weights are not those of the averaged ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainwright_worker.checkpoint.state import named_weights

_PREFIX = "average."


class WeightAverage:
    """The average of all weights that are trained, and of the buffers that are saved with them; the rest needs none."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the weights as they are.

        Args:
            model: The model.
            decay: Share of the average that a step keeps, once enough steps are done.
        """
        weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        saved = named_weights(model)
        buffers = {
            name: saved[name] for name, buffer in model.named_buffers() if name in saved and buffer.is_floating_point()
        }
        self._names = [*weights, *buffers]
        self._weights: list[Tensor] = [*weights.values(), *buffers.values()]
        self._averages = [weight.detach().clone() for weight in self._weights]
        self._trained = len(weights)
        self._decay = decay

    @property
    def buffers(self) -> list[Tensor]:
        """The averages of the buffers; like these, they differ from rank to rank after a step."""
        return self._averages[self._trained :]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after so many steps."""
        decay = min(self._decay, (1 + step) / (10 + step))
        # Weights may be sharded, buffers never are, and one call takes only one kind.
        for part in (slice(self._trained), slice(self._trained, None)):
            if self._averages[part]:
                torch._foreach_lerp_(self._averages[part], self._weights[part], 1 - decay)

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
