"""Gradient checkpointing: the backward pass recomputes the activations of a block instead of keeping them in memory."""

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
    """Return the repeated blocks of a model in order, as units for sharding or recomputation. Blocks are never nested.

    A block is a module with submodules, in a ModuleList or Sequential of more than one module.
    """
    found: list[nn.Module] = []
    _collect(model, found)
    return found


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Have a model keep only the inputs of its blocks and recompute the other activations in the backward pass.

    Call this before the model is wrapped in DDP or FSDP.

    Raises:
        UserError: The model has no blocks.
    """
    if isinstance(model, HuggingFaceModel):
        network: Any = model.network
        if not network.supports_gradient_checkpointing:
            raise UserError(
                "spec.training.gradientCheckpointing: true, but this model of transformers does not support it",
                "remove it",
            )
        # The older name is removed in release 6; the newer one was added after 5.3.
        enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        return
    blocks = blocks_of(model)
    if not blocks:
        raise UserError(
            "spec.training.gradientCheckpointing: true, but the model has no repeated blocks whose activations could be "
            "recomputed",
            "remove it, or use transformer, gpt, or a model of torchvision, timm or hf",
        )
    for block in blocks:
        # Bound to the block as a method, so that a deep copy of the model (for averaged weights) binds its own block.
        block.forward = MethodType(_checkpointed_forward, block)


def _collect(module: nn.Module, found: list[nn.Module]) -> None:
    among_others = isinstance(module, _CONTAINERS) and len(module) > 1
    for child in module.children():
        before = len(found)
        # If a stage contains a sequence of modules, those are the blocks, not the stage.
        if isinstance(child, _CONTAINERS) or not among_others:
            _collect(child, found)
        if among_others and len(found) == before and any(child.children()):
            found.append(child)


def _checkpointed_forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not (block.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]
    if not norms:
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=partial(_contexts, norms), **kwargs)


def _contexts(norms: list[_BatchNorm]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the context managers of the forward pass and of its recomputation."""
    return nullcontext(), _frozen_statistics(norms)


@contextmanager
def _frozen_statistics(norms: list[_BatchNorm]) -> Iterator[None]:
    """Keep the running statistics of batch normalization unchanged during recomputation."""
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, counter) in zip(norms, kept, strict=True):
        norm.momentum = 0.0
        norm.num_batches_tracked = None if counter is None else counter.clone()
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
