"""From the gradients of a step to new weights: learning rate, scaling, clipping, the optimizer, the average."""

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
        scaler: Scales the loss so that small gradients survive fp16; None in other arithmetic.
        average: The average of the weights, if the spec asks for one.
        guard: What leaves out steps that are not finite, if the spec or fp16 asks for it.
    """

    def __init__(
        self, spec: TrainingJobSpec, model: nn.Module, optimizer: Optimizer, total_steps: int, device: torch.device
    ) -> None:
        """Prepare.

        Args:
            spec: The job.
            model: The model without any wrapper.
            optimizer: Its optimizer.
            total_steps: Steps of the run, which schedules depend on.
            device: Where the model is trained.
        """
        training = spec.training
        half = training.precision == Precision.FP16
        self.scaler = GradScaler(device.type) if half else None
        self.average = None if training.ema is None else WeightAverage(model, training.ema.decay)
        skips = spec.health.non_finite == NonFinitePolicy.SKIP
        self.guard = Guard(model, device, forgives=skips) if half or skips else None
        self._optimizer = optimizer
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._clip = training.gradient_clipping
        self._base, self._schedule, self._total_steps = spec.optimizer.learning_rate, spec.schedule, total_steps
        self._varies = not is_constant(spec.schedule)
        self._on_device = can_skip_on_device(optimizer)

    def settle(self) -> None:
        """Note the model's state as sound; call it before the first step and after every restoration."""
        if self.guard is not None:
            self.guard.settle()

    def rate(self, step: int) -> float:
        """Return the learning rate of the step after `step` steps."""
        return learning_rate(self._base, self._schedule, step, self._total_steps)

    def take(self, step: int, *, measured: bool) -> Tensor | None:
        """Take a step with the gradients there are, and clear them.

        Args:
            step: Steps done before it.
            measured: Whether the norm of the gradient is wanted.

        Returns:
            The L2 norm of the gradient, before clipping; None if nobody needs it.
        """
        if self._varies:
            set_learning_rate(self._optimizer, self.rate(step))
        if self.scaler is not None:
            self.scaler.unscale_(self._optimizer)
        norm = self._limit(measured=measured or self.guard is not None)
        if self.guard is not None and norm is not None:
            self.guard.watch(norm)
        self._step()
        for weight in self._weights:  # As zero_grad does, which takes 10 microseconds to offer itself to a profiler.
            weight.grad = None
        if self.average is not None:
            self.average.update(step + 1)
        return norm

    def extras(self) -> dict[str, Tensor]:
        """Return the state in here that a checkpoint must hold beside model and optimizer, by name."""
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
        """Put back what `extras` returned; what is not in it begins anew. Call it once the model is restored."""
        if self.scaler is not None and _SCALE in extras:
            state = {"scale": float(extras[_SCALE]), "_growth_tracker": int(extras[_GROWTH])}
            self.scaler.load_state_dict(self.scaler.state_dict() | state)
        if self.average is not None:
            self.average.restore(extras)
        if self.guard is not None:
            self.guard.restore(extras)

    def _limit(self, *, measured: bool) -> Tensor | None:
        """Clip the gradient, or just measure it if that is wanted."""
        norm: Tensor | None = None
        if self._clip is not None:
            norm = clip_grad_norm_(self._weights, self._clip)
        elif measured:
            norm = get_total_norm([weight.grad for weight in self._weights if weight.grad is not None])
        # Of sharded weights every rank knows its part; together they know the norm.
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
        elif not self.guard.bad:  # Other optimizers cannot leave out a step by themselves: ask the device.
            self._optimizer.step()
