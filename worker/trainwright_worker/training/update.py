"""Updates the weights with the gradients of a step: learning rate, scaling, clipping, optimizer, moving average."""

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.health import NonFinitePolicy
from trainwright.api.spec.training import Precision
from trainwright_worker.optim.optimizer import can_skip_on_device, set_learning_rate
from trainwright_worker.optim.schedule import is_constant, learning_rate
from trainwright_worker.training.average import WeightAverage
from trainwright_worker.training.guard import Guard

_SCALE, _GROWTH = "scaler.scale", "scaler.growth"


class Update:
    """Takes the steps of a run.

    Attributes:
        scaler: Scales the loss so that small gradients do not underflow in fp16; None in other precisions.
        average: The moving average of the weights, if the spec enables it.
        guard: Skips steps that are not finite, if the spec enables it or the precision is fp16.
    """

    def __init__(
        self, spec: TrainingJobSpec, model: nn.Module, optimizer: Optimizer, total_steps: int, device: torch.device
    ) -> None:
        """Prepare the updates.

        Args:
            spec: The job.
            model: The unwrapped model.
            optimizer: The optimizer of the model.
            total_steps: Number of steps of the run, for the schedule.
            device: Device of the model.
        """
        training = spec.training
        half = training.precision == Precision.FP16
        self.scaler = GradScaler(device.type) if half else None
        self.average = None if training.ema is None else WeightAverage(model, training.ema.decay)
        skips = spec.health.non_finite == NonFinitePolicy.SKIP
        self.guard = Guard(model, device, skips_losses=skips) if half or skips else None
        self._optimizer = optimizer
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._clip = training.gradient_clipping
        self._base, self._schedule, self._total_steps = spec.optimizer.learning_rate, spec.schedule, total_steps
        self._varies = not is_constant(spec.schedule)
        self._on_device = can_skip_on_device(optimizer)

    def mark_valid(self) -> None:
        """Remember the model's state as valid; call this before the first step and after restoring a checkpoint."""
        if self.guard is not None:
            self.guard.mark_valid()

    def rate(self, step: int) -> float:
        """Return the learning rate of the step after `step` steps."""
        return learning_rate(self._base, self._schedule, step, self._total_steps)

    def take(self, step: int, *, measured: bool) -> Tensor | None:
        """Take a step with the current gradients, and clear them.

        Args:
            step: Number of steps done before.
            measured: Whether to measure the norm of the gradient.

        Returns:
            The L2 norm of the gradient before clipping; None if it was not measured.
        """
        if self._varies:
            set_learning_rate(self._optimizer, self.rate(step))
        if self.scaler is not None:
            self.scaler.unscale_(self._optimizer)
        norm = self._limit(measured=measured or self.guard is not None)
        if self.guard is not None and norm is not None:
            self.guard.watch(norm)
        self._step()
        for weight in self._weights:  # Instead of zero_grad, which costs 10 microseconds for profiler hooks.
            weight.grad = None
        if self.average is not None:
            self.average.update(step + 1)
        return norm

    def extras(self) -> dict[str, Tensor]:
        """Return the additional state that a checkpoint must save, by name."""
        found: dict[str, Tensor] = {}
        if self.scaler is not None:
            state = self.scaler.state_dict()
            found[_SCALE] = torch.tensor(state["scale"], dtype=torch.float64)
            found[_GROWTH] = torch.tensor(state["_growth_tracker"])
        if self.average is not None:
            found |= self.average.state()
        if self.guard is not None:
            found |= self.guard.state()
        return found

    def restore(self, extras: dict[str, Tensor]) -> None:
        """Restore the state that `extras` returned; missing parts start anew. Call this after restoring the model."""
        if self.scaler is not None and _SCALE in extras:
            state = {"scale": float(extras[_SCALE]), "_growth_tracker": int(extras[_GROWTH])}
            self.scaler.load_state_dict(self.scaler.state_dict() | state)
        if self.average is not None:
            self.average.restore(extras)
        if self.guard is not None:
            self.guard.restore(extras)

    def _limit(self, *, measured: bool) -> Tensor | None:
        """Clip the gradient, or only measure it if requested."""
        norm: Tensor | None = None
        if self._clip is not None:
            norm = clip_grad_norm_(self._weights, self._clip)
        elif measured:
            norm = get_total_norm([weight.grad for weight in self._weights if weight.grad is not None])
        # For sharded weights, the norm is a DTensor that combines those of all ranks.
        return norm.full_tensor() if norm is not None and hasattr(norm, "full_tensor") else norm

    def _step(self) -> None:
        if self.scaler is not None:
            self.scaler.step(self._optimizer)
            self.scaler.update()
        elif self.guard is None:
            self._optimizer.step()
        elif self._on_device:
            self._optimizer.found_inf = self.guard.bad  # type: ignore[attr-defined]
            self._optimizer.step()
        elif not self.guard.bad:  # This optimizer cannot skip a step on the device, so wait for the value.
            self._optimizer.step()
