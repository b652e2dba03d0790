"""Dry runs before training.

The dry step runs a few samples through model, loss and optimizer as in training, and then restores the previous state.
The dry pass runs on the meta device and finds out whether the model uses all of its weights.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from trainwright_worker.batch import Batch, run_model
from trainwright_worker.errors import UserError, WorkerError, explain
from trainwright_worker.models.vision import stand_ins
from trainwright_worker.optim.optimizer import set_learning_rate
from trainwright_worker.preflight.measure import Ones
from trainwright_worker.training.evaluate import Forward

CPU_SAMPLES: Final = 2
"""Samples of a dry step on a CPU, where it only checks for errors; batch normalization needs two."""
_REFUSALS: Final = (RuntimeError, ValueError, IndexError)
"""What torch raises if shapes, values, types or indices do not fit."""
_DEFECTS: Final = ("CUDA error", "INTERNAL ASSERT FAILED")
"""In the text of a RuntimeError of a faulty device, or of torch itself."""
_MODEL_LIBRARIES: Final = frozenset({"torchvision", "timm", "transformers"})
"""Their models fail with errors of any type on settings that they do not support."""


def take_dry_step(
    model: nn.Module, forward: Forward, loss: Callable[[Tensor, Batch], Tensor], optimizer: Optimizer, batch: Batch
) -> float:
    """Take a step with learning rate 0 and restore all other state exactly.

    With that rate the weights do not change, so no copy of them is needed. Buffers, random generators, gradients and
    the optimizer's state are restored. Under FSDP all ranks must call this.

    Args:
        model: The model without DDP.
        forward: The forward pass.
        loss: Maps the outputs for a batch to a loss.
        optimizer: The optimizer, before its first step.
        batch: The samples of the step.

    Returns:
        The duration of the step in seconds.

    Raises:
        UserError: The model cannot take a step.
    """
    begun = time.perf_counter()
    with _translate_errors(next(model.parameters()).device), _restored(model, optimizer):
        model.train()
        value = loss(forward(batch), batch)
        value.backward()  # type: ignore[no-untyped-call]
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        # Skip the update if gradients are not finite: 0 times infinity is NaN, and training has its own policy for
        # that.
        if gradients and _is_finite(get_total_norm(gradients)):
            optimizer.step()
    return time.perf_counter() - begun


def uses_all_weights(model: nn.Module, batch: Batch) -> bool:
    """Return whether the outputs depend on every trainable weight; false if that cannot be determined from shapes.

    Runs on the meta device and changes nothing.

    Args:
        model: The unwrapped model.
        batch: Any batch; only its shape matters.
    """
    both = _BothPasses(model)
    training = model.training
    model.train()
    try:
        with Ones():  # type: ignore[no-untyped-call]
            used: bool = functional_call(both, stand_ins(both), (batch.to(torch.device("meta")),), tie_weights=False)
    except Exception:  # noqa: BLE001 - models that need values fail in many ways
        return False
    finally:
        model.train(training)
    return used


class _BothPasses(nn.Module):
    """Runs forward and backward in one call, because gradient checkpointing repeats the model in the backward pass."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> bool:
        """Return whether every trainable weight gets a gradient."""
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(run_model(self.model, batch).sum(), trained, allow_unused=True)
        return all(gradient is not None for gradient in gradients)


def _is_finite(norm: Tensor) -> bool:
    whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return bool(whole.isfinite())


@contextmanager
def _translate_errors(device: torch.device) -> Iterator[None]:
    """Turn a refusal of the model, the data or the precision into a user error: a restart would fail alike.

    Other errors are passed on, such as those of a faulty device, or a missing attribute, which is a defect of ours.
    """
    try:
        yield
    except Exception as error:
        if type(explain(error)) is not WorkerError or not _is_refusal(error):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"spec.model: this model cannot take a step on this data, in this precision, on {device.type}: {reason}",
            "try spec.training.precision: fp32 (or bf16 in place of fp16), other spec.model.args, or another model",
        ) from error


def _is_refusal(error: Exception) -> bool:
    if any(word in str(error) for word in _DEFECTS):
        return False
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    packages = {str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame in frames}
    return isinstance(error, _REFUSALS) or not packages.isdisjoint(_MODEL_LIBRARIES)


@contextmanager
def _restored(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    rates = [group["lr"] for group in optimizer.param_groups]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    prepared = set(optimizer.state)
    training = model.training
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    set_learning_rate(optimizer, 0.0)
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        optimizer.zero_grad(set_to_none=True)
        for weight in list(optimizer.state):
            if weight in prepared:
                _clear(optimizer.state[weight])
            else:
                del optimizer.state[weight]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for buffer, before in buffers:
            buffer.copy_(before)
        model.train(training)


def _clear(state: dict[str, object]) -> None:
    """Reset the state that an optimizer creates before its first step to zeros."""
    for value in state.values():
        if isinstance(value, Tensor):
            value.zero_()
