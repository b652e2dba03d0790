"""Low-rank adaptation (LoRA): linear layers stay as they are, and a product of two small matrices is added to them.

The matrices are parameters of the layer that they adapt, so every other weight keeps its name: pretrained weights load
as ever, and after `merge_lora` the model is again what it was, with other numbers in it.
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
"""Names under which the projections of attention are known."""
_SHOWN: Final = 8
"""How many names an error lists."""


@dataclass(frozen=True)
class _Addition:
    """A forward hook that adds what the small matrices say.

    Attributes:
        scale: Factor of their product.
        dropout: Dropout of the inputs.
    """

    scale: float
    dropout: float

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs = F.dropout(args[0], self.dropout, layer.training)
        return output + F.linear(F.linear(inputs, layer.get_parameter(DOWN)), layer.get_parameter(UP)) * self.scale


def add_lora(model: nn.Module, spec: LoraSpec, trained: frozenset[str]) -> None:
    """Adapt linear layers and freeze all other weights. At first the additions are zero.

    Args:
        model: The model; changed in place.
        spec: Rank, scale and targets.
        trained: Names of weights that stay trainable: those of a new head.

    Raises:
        UserError: A target is no linear layer of the model, or none with a weight of its own.
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
    """Add the product of the small matrices to the weights and remove them; a model without any stays as it is."""
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
    """Return what training changes: trainable weights and buffers. With LoRA, it is small."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def _linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that can be adapted: torch's linear ones, and GPT-2's Conv1D of transformers."""
    found = {}
    for parent, holder in model.named_modules():
        if isinstance(holder, nn.MultiheadAttention):
            continue  # It reads the weights of its layers without calling them.
        for last, layer in holder.named_children():
            if isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D":
                found[f"{parent}.{last}".lstrip(".")] = layer
    return found


def _shared(model: nn.Module, layers: dict[str, nn.Module]) -> set[str]:
    """Return the names of layers whose weight is another module's too, as that of an output layer may be the embedding.

    They are never adapted: the addition is the layer's alone while it trains, but merged it would change both.
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
    # The name of a layer without its place in the model says enough, and is the same in every block.
    names = list(dict.fromkeys(name.rpartition(".")[2] for name in layers))
    return f"set targets to some of: {', '.join(names[:_SHOWN]) or 'none, the model has no linear layers'}"
