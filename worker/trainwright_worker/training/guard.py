"""Lets no step be taken whose gradient is not finite, and counts those; nothing in here waits for the device."""

from typing import Final

import torch
from torch import Tensor, nn

MOST_IN_A_ROW: Final = 20
"""Steps that may be left out one after the other; by then the weights, not the data, are to blame."""
_NAME: Final = "guard.counts"


class Guard:
    """Watches every step's gradient.

    All ranks come to the same verdict, since they look at the norm of the same, summed gradient.

    Attributes:
        bad: Whether the newest gradient was not finite (float32 scalar, 1 or 0, on the device).
    """

    def __init__(self, model: nn.Module, device: torch.device, *, forgives: bool) -> None:
        """Begin with nothing left out.

        Args:
            model: The model. Running statistics in its buffers are taken back with the step that spoilt them.
            device: Where it is trained.
            forgives: Whether losses that are not finite are left out too (health.nonFinite: skip).
        """
        self._forgives = forgives
        self.bad = torch.zeros((), device=device)
        # Left out: all together, now in a row, most in a row.
        self._counts = torch.zeros(3, dtype=torch.int64, device=device)
        self._buffers = list(model.buffers())
        self._sound: list[Tensor] = []

    def settle(self) -> None:
        """Trust the model's buffers as they are now."""
        self._sound = [buffer.clone() for buffer in self._buffers]

    def watch(self, norm: Tensor) -> None:
        """Judge a gradient by its norm, before its step would be taken."""
        bad = ~norm.isfinite()
        total, row, most = self._counts.unbind()
        row = (row + 1) * bad
        self._counts = torch.stack((total + bad, row, torch.maximum(most, row)))
        self.bad = bad.float()
        for buffer, sound in zip(self._buffers, self._sound, strict=True):
            buffer.copy_(torch.where(bad, sound, buffer))
            sound.copy_(buffer)

    def count(self, loss: Tensor) -> Tensor:
        """Return what the step's loss adds to the sum of losses: nothing, if the step was not taken.

        Only gradients overflow because of fp16's scale. A loss that is no number is none for another reason, which is left to
        the meeting unless such steps are to be skipped.
        """
        bad, finite = self.bad > 0, loss.isfinite()
        return torch.where(bad | ~finite if self._forgives else bad & finite, 0.0, loss)

    def read(self) -> tuple[int, int]:
        """Return how many steps were left out, all together and at most in a row. Waits for the device."""
        total, _, most = self._counts.tolist()
        return total, most

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold, by name."""
        return {_NAME: self._counts}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` returned."""
        if _NAME in state:
            self._counts.copy_(state[_NAME])
