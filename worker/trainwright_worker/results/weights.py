"""The trained model for results: the weights that evaluation measured, unsharded and on the CPU."""

import copy
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from trainwright_worker.distributed.parallel import full_state_dict, is_sharded
from trainwright_worker.models.build import build, draws_layer_by_layer
from trainwright_worker.models.lora import merge_lora
from trainwright_worker.training.run import Run


def weights_of(run: Run) -> dict[str, Tensor]:
    """Return the weights of evaluation by name, unsharded and on the CPU of rank 0. All ranks must call this."""
    return full_state_dict(run.learner.model, leads=run.placement.leads)


def model_of(run: Run, weights: dict[str, Tensor]) -> nn.Module:
    """Return a separate model with these weights: on the CPU, in evaluation mode, unwrapped, with LoRA merged."""
    if is_sharded(run.spec, run.group.size):
        # All tensors of such a model are in its state dict, so it can be built without memory on the meta device.
        bare = draws_layer_by_layer(run.spec.model)
        with torch.random.fork_rng(devices=[]), torch.device("meta") if bare else nullcontext():
            model = build(run.spec, run.data.facts, run.config.data_root)
        model.load_state_dict(weights, assign=bare)  # A sharded model may be too large for a second copy.
    else:
        model = _copy(run.learner.model, weights)
    merge_lora(model)
    return model.eval().requires_grad_(requires_grad=False)


def _copy(source: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Return a copy of a model that uses the given weights without copying them."""
    tensors: dict[str, Tensor] = dict(source.named_parameters(remove_duplicate=False))
    tensors |= dict(source.named_buffers(remove_duplicate=False))
    # Tensors listed in deepcopy's memo are not copied, so this needs no device memory.
    copies: dict[int, Any] = {}
    for name, tensor in tensors.items():
        value = weights[name] if name in weights else tensor.detach().cpu()
        copies[id(tensor)] = nn.Parameter(value) if isinstance(tensor, nn.Parameter) else value
    return copy.deepcopy(source, copies)


def savable(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights by name, each with its own memory, as safetensors requires."""
    seen: set[int] = set()
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        shared = value.untyped_storage().data_ptr() in seen
        seen.add(value.untyped_storage().data_ptr())
        weights[name] = value.detach().clone() if shared else value.detach().contiguous()
    return weights


def on_device(model: nn.Module, device: torch.device) -> torch.device:
    """Move the model to the device if it has enough memory, and return the model's device."""
    try:
        model.to(device)
    except torch.OutOfMemoryError:
        model.cpu()
        return torch.device("cpu")
    return device
