"""Low-rank adaptation (LoRA): linear layers are frozen, and the product of two small trained matrices is added.

The matrices are parameters of the layer that they adapt, so every other weight keeps its name: pretrained weights load
unchanged, and `merge_lora` restores the original structure of the model, with updated weights.
"""

import math
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from trainwright.api.spec.model import LoraSpec
from trainwright_worker.errors import UserError

DOWN: Final = "lora_down"
UP: Final = "lora_up"
_ATTENTION: Final = (
    *("qkv", "q_proj", "v_proj", "query", "value", "q_lin", "v_lin", "c_attn", "query_key_value", "Wqkv"),
    *("q", "v", "in_proj"),
)
"""Common names of the projections of attention, which are adapted by default."""
_SHOWN: Final = 8
"""Maximum number of names that an error lists."""


@dataclass(frozen=True)
class _Addition:
    """A forward hook that adds the output of the low-rank matrices.

    Attributes:
        scale: Factor applied to their product.
        dropout: Dropout probability of the inputs.
    """

    scale: float
    dropout: float

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs = F.dropout(args[0], self.dropout, layer.training)
        return output + F.linear(F.linear(inputs, layer.get_parameter(DOWN)), layer.get_parameter(UP)) * self.scale


def add_lora(model: nn.Module, spec: LoraSpec, trained: frozenset[str]) -> None:
    """Add low-rank matrices to linear layers and freeze all other weights. The initial product is zero.

    Args:
        model: The model; changed in place.
        spec: Rank, scale and targets.
        trained: Names of the weights that stay trainable: those of a new head.

    Raises:
        UserError: A target matches no linear layer, or only layers that share their weight.
    """
    layers = _linear_layers(model)
    chosen = _choose(layers, _shared(model, layers), spec.targets)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    for name in chosen:
        layer = layers[name]
        outputs, inputs = _dimensions(layer)
        weight = layer.get_parameter("weight")
        down = torch.empty(spec.rank, inputs, dtype=weight.dtype, device=weight.device)
        layer.register_parameter(DOWN, nn.Parameter(nn.init.kaiming_uniform_(down, a=math.sqrt(5))))
        layer.register_parameter(
            UP, nn.Parameter(torch.zeros(outputs, spec.rank, dtype=down.dtype, device=down.device))
        )
        layer.register_forward_hook(_Addition(spec.alpha / spec.rank, spec.dropout))


@torch.no_grad()
def merge_lora(model: nn.Module) -> None:
    """Add the product of the low-rank matrices to the weights and remove them. Other models are unchanged."""
    for layer in model.modules():
        for key, hook in list(layer._forward_hooks.items()):  # noqa: SLF001 - torch has no public list of hooks
            if isinstance(hook, _Addition):
                product = layer.get_parameter(UP) @ layer.get_parameter(DOWN) * hook.scale
                layer.get_parameter("weight").add_(product if isinstance(layer, nn.Linear) else product.T)
                del layer._forward_hooks[key]  # noqa: SLF001
                delattr(layer, DOWN)
                delattr(layer, UP)
    model.requires_grad_(requires_grad=True)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the part of the state dict that training changes: trainable weights and buffers. It is small with LoRA."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that can be adapted: torch's linear ones, and GPT-2's Conv1D of transformers."""
    found = {}
    for parent, holder in model.named_modules():
        if isinstance(holder, nn.MultiheadAttention):
            continue  # It never calls its linear layers, so a forward hook would have no effect.
        for last, layer in holder.named_children():
            if isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D":
                found[f"{parent}.{last}".lstrip(".")] = layer
    return found


def _shared(model: nn.Module, layers: dict[str, nn.Module]) -> set[str]:
    """Return the names of layers that share their weight with another module, such as tied output layers.

    They are never adapted: during training the addition affects only the layer, but merging it would change both
    modules.
    """
    holders = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
    return {name for name, layer in layers.items() if holders[id(layer.get_parameter("weight"))] > 1}


def _dimensions(layer: nn.Module) -> tuple[int, int]:
    """Return the numbers of outputs and inputs of a layer."""
    rows, columns = layer.get_parameter("weight").shape
    return (rows, columns) if isinstance(layer, nn.Linear) else (columns, rows)


def _choose(layers: dict[str, nn.Module], shared: set[str], targets: list[str] | None) -> list[str]:
    own = {name: layer for name, layer in layers.items() if name not in shared}
    chosen: set[str] = set()
    for number, target in enumerate(targets or _ATTENTION):
        found = {name for name in layers if f".{name}".endswith(f".{target}") or fnmatchcase(name, target)}
        if targets is not None and found <= shared:
            what = f"no linear layer is called {target}"
            if found:
                what = f"{min(found)} shares its weight with another layer, usually the embedding"
            raise UserError(f"spec.model.lora.targets[{number}]: {what}", _known(own))
        chosen |= found - shared
    if not chosen:
        raise UserError("spec.model.lora: the model has no attention whose projections have a usual name", _known(own))
    return [name for name in layers if name in chosen]


def _known(layers: dict[str, nn.Module]) -> str:
    # The last part of a name is enough, and is the same in every block.
    names = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    return f"set targets to some of: {', '.join(names[:_SHOWN]) or 'none, the model has no linear layers'}"
