"""The trained model as everything after training uses it: the weights that evaluation measured, on the CPU, unsharded."""

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
    """Return the weights that evaluation measures, by name, whole and on the CPU of rank 0. All ranks must call this."""
    return full_state_dict(run.learner.model, leads=run.placement.leads)


def model_of(run: Run, weights: dict[str, Tensor]) -> nn.Module:
    """Return a model of its own with these weights: on the CPU, for evaluation, without wrappers and LoRA's matrices."""
    if is_sharded(run.spec, run.group.size):
        # Layers that draw their own weights have no tensor besides those that are saved.
        bare = draws_layer_by_layer(run.spec.model)
        with torch.random.fork_rng(devices=[]), torch.device("meta") if bare else nullcontext():
            model = build(run.spec, run.data.facts, run.config.data_root)
        model.load_state_dict(weights, assign=bare)  # A second copy of a model that had to be split is too much.
    else:
        model = _copy(run.learner.model, weights)
    merge_lora(model)
    return model.eval().requires_grad_(requires_grad=False)


def _copy(source: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Return a copy of a model with other weights, which are not copied."""
    tensors: dict[str, Tensor] = dict(source.named_parameters(remove_duplicate=False))
    tensors |= dict(source.named_buffers(remove_duplicate=False))
    # Copying everything but the tensors, whose copies are there already, leaves the device's memory alone.
    copies: dict[int, Any] = {}
    for name, tensor in tensors.items():
        value = weights[name] if name in weights else tensor.detach().cpu()
        copies[id(tensor)] = nn.Parameter(value) if isinstance(tensor, nn.Parameter) else value
    return copy.deepcopy(source, copies)


def savable(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights by name, each with memory of its own: a file that any loader takes strictly."""
    seen: set[int] = set()
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        shared = value.untyped_storage().data_ptr() in seen
        seen.add(value.untyped_storage().data_ptr())
        weights[name] = value.detach().clone() if shared else value.detach().contiguous()
    return weights


def on_device(model: nn.Module, device: torch.device) -> torch.device:
    """Move the model to the device if it has room, and return where the model now is."""
    try:
        model.to(device)
    except torch.OutOfMemoryError:
        model.cpu()
        return torch.device("cpu")
    return device
