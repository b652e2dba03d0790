"""One dry step: a few samples go through model, loss and optimizer as in training, and nothing of it is left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from trainwright_worker.batch import Batch
from trainwright_worker.optim.optimizer import set_learning_rate
from trainwright_worker.training.evaluate import Forward
from trainwright_worker.training.losses import Loss

CPU_SAMPLES: Final = 2
"""Samples of a dry step on a CPU, where it only has to show that everything works; batch normalization needs two."""


def take_dry_step(model: nn.Module, forward: Forward, loss: Loss, optimizer: Optimizer, batch: Batch) -> float:
    """Take a step at learning rate 0 and put back everything that it touches, to the last bit.

    The weights cannot change at that rate, so no copy of them is needed. Buffers, random generators, gradients and the
    optimizer's state are as before. Under FSDP all ranks must call this.

    Args:
        model: The model without any wrapper that averages gradients.
        forward: Its forward pass.
        loss: The loss.
        optimizer: Its optimizer, which has not taken a step yet.
        batch: What goes through.

    Returns:
        How long it took, in seconds.
    """
    begun = time.perf_counter()
    with _restored(model, optimizer):
        model.train()
        value = loss(forward(batch), batch)
        value.backward()  # type: ignore[no-untyped-call]
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        # Zero times infinity is no number; what is to happen then is the policy of the training itself.
        if gradients and _is_finite(get_total_norm(gradients)):
            optimizer.step()
    return time.perf_counter() - begun


def _is_finite(norm: Tensor) -> bool:
    whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    return bool(whole.isfinite())


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
    """Make state that an optimizer prepares before its first step what it was: zeros."""
    for value in state.values():
        if isinstance(value, Tensor):
            value.zero_()
