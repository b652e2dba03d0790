"""Exports recurrent layers as ONNX's RNN, LSTM and GRU operators.

Plain tracing would turn them into loops over matrix products, which runtimes neither optimize nor quantize, and packed
sequences cannot be traced at all. ONNX's operators take the length of each sequence as an input instead.
"""

import copy
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainwright_worker.models.pooling import last_real, lengths
from trainwright_worker.models.recurrent import RecurrentLayers

_ORDER: Final = {"RNN": (0,), "LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
"""Index in torch's weights of each gate in the order of ONNX: input, output, forget, cell; update, reset, new."""
_OPSET: Final = 14


def with_operators(model: nn.Module) -> nn.Module:
    """Return a copy of the model with ONNX operators as recurrent layers, for tracing; the model itself if none."""
    found = [name for name, module in model.named_modules() if isinstance(module, RecurrentLayers)]
    if not found:
        return model
    model = copy.deepcopy(model)
    for name in found:
        model.set_submodule(name, _Operators(model.get_submodule(name)))
    return model


class _Operators(nn.Module):
    """RecurrentLayers as one symbolic ONNX operator per layer, which can be traced but not run."""

    def __init__(self, layers: Any) -> None:
        super().__init__()
        cells = layers.cells
        self.bidirectional, self.features, self.hidden = cells.bidirectional, layers.features, cells.hidden_size
        self.operator = cells.mode.removesuffix("_TANH")
        self.directions = ("", "_reverse") if cells.bidirectional else ("",)
        self.count = cells.num_layers
        for layer in range(self.count):
            for kind in ("weight_ih", "weight_hh"):
                self.register_buffer(f"{kind}_{layer}", self._stack(cells, kind, layer))
            biases = [self._stack(cells, kind, layer) for kind in ("bias_ih", "bias_hh")]
            self.register_buffer(f"bias_{layer}", torch.cat(biases, 1))

    def forward(self, inputs: Tensor, mask: Tensor | None = None, state: None = None) -> Tensor:  # noqa: ARG002
        """Map [batch, length, inputs] to [batch, length, features]."""
        batch, length = inputs.shape[:2]
        real = None if mask is None else lengths(mask).to(torch.int32)
        attributes: dict[str, Any] = {"hidden_size": self.hidden}
        if self.bidirectional:
            attributes["direction"] = "bidirectional"
        if self.operator == "GRU":
            attributes["linear_before_reset"] = 1  # Torch multiplies by the reset gate after the product.
        ends = 2 if self.operator == "LSTM" else 1
        sides = len(self.directions)
        x = inputs.transpose(0, 1)
        for layer in range(self.count):
            weights = (getattr(self, f"{kind}_{layer}") for kind in ("weight_ih", "weight_hh", "bias"))
            outputs = torch.onnx.ops.symbolic_multi_out(
                self.operator,
                (x, *weights, real),
                attributes,
                dtypes=(inputs.dtype,) * (1 + ends),
                shapes=((length, sides, batch, self.hidden), *((sides, batch, self.hidden),) * ends),
                version=_OPSET,
            )[0].to(
                inputs.device
            )  # Symbolic outputs are on the CPU, but the check before training traces on the meta device.
            x = outputs.transpose(1, 2).reshape(length, batch, self.features)
        return x.transpose(0, 1)

    def last(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return the final state of each direction, [batch, features]."""
        end = last_real(outputs, mask)
        return torch.cat((end[:, : self.hidden], outputs[:, 0, self.hidden :]), 1) if self.bidirectional else end

    def _stack(self, cells: nn.RNNBase, kind: str, layer: int) -> Tensor:
        """Return one kind of weights of a layer in the order of ONNX: [directions, gates x hidden, ...]."""
        sides = []
        for direction in self.directions:
            gates = getattr(cells, f"{kind}_l{layer}{direction}").detach().chunk(len(_ORDER[self.operator]))
            sides.append(torch.cat([gates[gate] for gate in _ORDER[self.operator]]))
        return torch.stack(sides)
