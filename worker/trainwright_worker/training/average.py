"""An exponential moving average (EMA) of the weights, which is evaluated and exported in their place.

Running statistics are averaged as well, because those of the latest weights do not suit the averaged weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainwright_worker.checkpoint.state import named_weights

_PREFIX = "average."


class WeightAverage:
    """The moving average of all trainable weights, and of the floating-point buffers that are saved with them."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start with the current weights.

        Args:
            model: The model.
            decay: Fraction of the average that a step keeps, once enough steps are done.
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
        """The averages of the buffers. Like the buffers, they differ between ranks after a step."""
        return self._averages[self._trained :]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after the given number of steps to the average."""
        decay = min(self._decay, (1 + step) / (10 + step))
        # Weights may be DTensors, buffers are not, and one call cannot mix both kinds.
        for part in (slice(self._trained), slice(self._trained, None)):
            if self._averages[part]:
                torch._foreach_lerp_(self._averages[part], self._weights[part], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the averages as the model's weights inside the context."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Swap weights and averages, one tensor at a time to save memory."""
        for weight, average in zip(self._weights, self._averages, strict=True):
            previous = weight.clone()
            weight.copy_(average)
            average.copy_(previous)

    def state(self) -> dict[str, Tensor]:
        """Return the state that a checkpoint must save, by name."""
        return {_PREFIX + name: average for name, average in zip(self._names, self._averages, strict=True)}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore the state that `state` returned; start with the model's weights if it contains no averages."""
        for name, weight, average in zip(self._names, self._weights, self._averages, strict=True):
            average.copy_(state.get(_PREFIX + name, weight))
