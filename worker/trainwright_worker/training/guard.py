"""Skips steps with gradients that are not finite, and counts them, without waiting for the device."""

from typing import Final

import torch
from torch import Tensor, nn

MOST_IN_A_ROW: Final = 20
"""Maximum number of consecutive skipped steps. After that, the cause is the weights and not the data."""
_NAME: Final = "guard.counts"


class Guard:
    """Checks every step's gradient.

    All ranks come to the same result, because they check the norm of the same averaged gradient.

    Attributes:
        bad: Whether the latest gradient was not finite (float32 scalar, 1 or 0, on the device).
    """

    def __init__(self, model: nn.Module, device: torch.device, *, skips_losses: bool) -> None:
        """Start with no skipped steps.

        Args:
            model: The model. If a step is skipped, its buffers (running statistics) are restored too.
            device: Device of the model.
            skips_losses: Whether losses that are not finite are skipped too (health.nonFinite: skip).
        """
        self._skips_losses = skips_losses
        self.bad = torch.zeros((), device=device)
        # Skipped steps: in total, consecutive until now, maximum consecutive.
        self._counts = torch.zeros(3, dtype=torch.int64, device=device)
        self._buffers = list(model.buffers())
        self._sound: list[Tensor] = []

    def mark_valid(self) -> None:
        """Remember the model's current buffers as valid."""
        self._sound = [buffer.clone() for buffer in self._buffers]

    def watch(self, norm: Tensor) -> None:
        """Check a gradient by its norm before its step is taken."""
        bad = ~norm.isfinite()
        total, row, most = self._counts.unbind()
        row = (row + 1) * bad
        self._counts = torch.stack((total + bad, row, torch.maximum(most, row)))
        self.bad = bad.float()
        for buffer, sound in zip(self._buffers, self._sound, strict=True):
            buffer.copy_(torch.where(bad, sound, buffer))
            sound.copy_(buffer)

    def count(self, loss: Tensor) -> Tensor:
        """Return the step's contribution to the sum of losses: its loss, or 0 if the step was skipped.

        The scaling of fp16 can make gradients overflow, but not the loss. Unless the spec skips such steps, a loss that
        is not finite therefore stays in the sum, where the next meeting detects it.
        """
        bad, finite = self.bad > 0, loss.isfinite()
        return torch.where(bad | ~finite if self._skips_losses else bad & finite, 0.0, loss)

    def read(self) -> tuple[int, int]:
        """Return the total and the maximum consecutive number of skipped steps. Waits for the device."""
        total, _, most = self._counts.tolist()
        return total, most

    def state(self) -> dict[str, Tensor]:
        """Return the state that a checkpoint must save, by name."""
        return {_NAME: self._counts}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore the state that `state` returned."""
        if _NAME in state:
            self._counts.copy_(state[_NAME])
