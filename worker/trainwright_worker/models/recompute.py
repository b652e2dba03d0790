"""Gradient checkpointing: activations of a block are computed again for the backward pass instead of being kept."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from trainwright_worker.errors import UserError
from trainwright_worker.models.huggingface import HuggingFaceModel

_CONTAINERS = (nn.ModuleList, nn.Sequential)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that a model repeats, in order: what is worth sharding or recomputing. None lies in another.

    A block has parts of its own and stands in a list or a sequence beside others.
    """
    found: list[nn.Module] = []
    _collect(model, found)
    return found


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Have a model keep only what comes into its blocks, and compute the rest again in the backward pass.

    Call it before the model is wrapped for several processes.

    Raises:
        UserError: The model has no blocks.
    """
    if isinstance(model, HuggingFaceModel):
        network: Any = model.network
        if not network.supports_gradient_checkpointing:
            raise UserError("spec.training.gradientCheckpointing: true, but this model of transformers cannot do it")
        # Its older name is gone in release 6, its newer one came after 5.3.
        enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        return
    blocks = blocks_of(model)
    if not blocks:
        raise UserError(
            "spec.training.gradientCheckpointing: true, but the model has no repeated blocks whose activations could be "
            "computed again",
            "remove it, or use transformer, gpt, or a model of torchvision, timm or hf",
        )
    for block in blocks:
        # A method of the block: a copy of the model (an average of its weights) gets one of its own.
        block.forward = MethodType(_forward_twice, block)


def _collect(module: nn.Module, found: list[nn.Module]) -> None:
    among_others = isinstance(module, _CONTAINERS) and len(module) > 1
    for child in module.children():
        before = len(found)
        # What is in a stage's own sequence is a block, rather than the stage.
        if isinstance(child, _CONTAINERS) or not among_others:
            _collect(child, found)
        if among_others and len(found) == before and any(child.children()):
            found.append(child)


def _forward_twice(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]
    if not norms:
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_contexts, norms), **kwargs)


def _contexts(norms: list[_BatchNorm]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what surrounds the forward pass and what surrounds its repetition."""
    return nullcontext(), _frozen_statistics(norms)


@contextmanager
def _frozen_statistics(norms: list[_BatchNorm]) -> Iterator[None]:
    """Keep batch normalization from counting a batch again that it has seen."""
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, counter) in zip(norms, kept, strict=True):
        norm.momentum = 0.0
        norm.num_batches_tracked = None if counter is None else counter.clone()
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
