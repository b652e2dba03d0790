"""Builds the torch modules of a list of layers and checks every shape before it allocates weights.

The output shape of each layer is computed arithmetically, so an error names the index of the layer and its input shape
without running the model or using a device. A shape of one number is a vector, of two a sequence (length, features), of
three an image (channels, height, width).
"""

import math
from collections.abc import Callable

from torch import Tensor, nn

from trainwright.api.layers import expand
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.architecture import ModelName
from trainwright.api.spec.layer import (
    Activation,
    BatchNorm,
    Conv2d,
    Dense,
    Layer,
    LayerNorm,
    Pool2d,
    Recurrent,
    RecurrentOutput,
)
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.models.pooling import MeanOfReal
from trainwright_worker.models.recurrent import LastState, RecurrentLayers

Shape = tuple[int, ...]
"""Shape of one sample, without the batch dimension."""
Added = tuple[list[nn.Module], Shape]
"""The modules of a layer, and their output shape."""

SEQUENCE_DIMENSIONS = 2
IMAGE_DIMENSIONS = 3

_ACTIVATIONS: dict[Activation, type[nn.Module] | None] = {
    Activation.NONE: None,
    Activation.RELU: nn.ReLU,
    Activation.GELU: nn.GELU,
    Activation.TANH: nn.Tanh,
    Activation.SIGMOID: nn.Sigmoid,
}


class Layers(nn.Sequential):
    """Layers in sequence; those that handle padding also get the mask."""

    def __init__(self, *modules: nn.Module) -> None:
        """Take the layers."""
        super().__init__(*modules)
        # Determined once, because an export later replaces some modules by its own.
        self._masked = [isinstance(module, _MASKED) for module in self]

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the outputs of the last layer.

        Args:
            inputs: Inputs of the first layer, batch first.
            mask: bool [batch, length], true for real positions, false for padding; None if there is no padding.
        """
        for module, masked in zip(self, self._masked, strict=True):
            inputs = module(inputs, mask) if masked else module(inputs)
        return inputs


_MASKED = (RecurrentLayers, LastState, MeanOfReal)


def build_layers(spec: TrainingJobSpec, facts: Facts) -> Layers:
    """Return the layers of the spec, or of the named model (mlp, cnn), with randomly initialized weights.

    Raises:
        UserError: A layer does not fit the output of the layer before it; names the layer.
    """
    shape = facts.shape
    layers = expand(spec.model, facts.outputs, spec.regularization.dropout)
    modules: list[nn.Module] = []
    written = 0
    for layer in layers:
        name = _name(spec, written)
        if layer.embedding is not None or (facts.vocabulary is not None and not modules):
            added, shape = _add_embedding(layer, shape, name, facts, first=not modules)
        else:
            added, shape = _add(layer, shape, name)
        if spec.traits.causal and any(_reads_backwards(module) for module in added):
            raise UserError(
                f"{name}: bidirectional: true, but task {spec.task} predicts positions that the model would see",
                "remove it",
            )
        modules += added
        # Dropout layers added by spec.regularization are not in spec.model.layers and must not shift its indices.
        written += spec.model.layers is not None and any(layer is own for own in spec.model.layers)
    _check_outputs(spec, shape, facts, _name(spec, written - 1))
    if len(shape) == IMAGE_DIMENSIONS:
        modules.append(nn.Flatten())
    return Layers(*modules)


def _reads_backwards(module: nn.Module) -> bool:
    return isinstance(module, RecurrentLayers) and module.cells.bidirectional


def _name(spec: TrainingJobSpec, index: int) -> str:
    # The layers of a named model are not in the spec, so the error names the model instead of an index.
    return f"spec.model.layers[{index}]" if spec.model.layers is not None else f"spec.model.name: {spec.model.name}"


def _field(name: str, kind: str) -> str:
    return f"{name}.{kind}" if "[" in name else name


def _check_outputs(spec: TrainingJobSpec, shape: Shape, facts: Facts, name: str) -> None:
    per_position = spec.traits.per_position
    if per_position and len(shape) != SEQUENCE_DIMENSIONS:
        raise UserError(
            f"{name}: task {spec.task} needs outputs for every position, but the layers produce {_describe(shape)}",
            "set output: sequence in recurrent layers, and remove pooling",
        )
    if not per_position and len(shape) == SEQUENCE_DIMENSIONS:
        raise UserError(
            f"{name}: the layers end with a sequence, but task {spec.task} needs one vector per sample",
            "add globalAvgPool, or a recurrent layer with output: lastState, before the last dense layer",
        )
    outputs = shape[1] if per_position else math.prod(shape)
    if outputs != facts.outputs:
        need = f"{facts.outputs} {spec.traits.outputs}" if facts.outputs > 1 else "one target"
        raise UserError(f"{name}: the last layer has {outputs} outputs, but the data has {need}")


def _add(layer: Layer, shape: Shape, name: str) -> Added:
    if layer.dropout is not None:
        return [nn.Dropout(layer.dropout.rate)], shape
    for kind, add in _ADDERS.items():
        part = getattr(layer, kind)
        if part is not None:
            return add(part, shape, name)
    return _add_recurrent(layer, shape, name)


def _add_embedding(layer: Layer, shape: Shape, name: str, facts: Facts, *, first: bool) -> Added:
    if layer.embedding is None:
        raise UserError(
            f"{name}: the data are token ids, which need an embedding as the first layer",
            "begin the layers with embedding: {dimension: 64}"
            if "[" in name
            else "use rnn, lstm, gru, transformer, gpt or hf:TYPE, or layers that begin with an embedding",
        )
    if not first or facts.vocabulary is None:
        what = _describe(shape) if facts.vocabulary is None else "the outputs of another layer"
        raise UserError(
            f"{name}.embedding: needs token ids, but gets {what}", "make it the first layer, and use it with text only"
        )
    vocabulary = layer.embedding.vocabulary or facts.vocabulary
    if vocabulary < facts.vocabulary:
        raise UserError(
            f"{name}.embedding.vocabulary: {vocabulary}, but the tokenizer has {facts.vocabulary} tokens",
            "remove it: the default is the size of the tokenizer's vocabulary",
        )
    return [nn.Embedding(vocabulary, layer.embedding.dimension)], (shape[0], layer.embedding.dimension)


def _add_dense(dense: Dense, shape: Shape, name: str) -> Added:
    sequence = len(shape) == SEQUENCE_DIMENSIONS
    inputs = shape[1] if sequence else math.prod(shape)
    if dense.inputs is not None and dense.inputs != inputs:
        raise UserError(
            f"{name}.dense.inputs: {dense.inputs}, but the layers before it produce {inputs}",
            "remove it: it is computed from the layers before",
        )
    flatten = [nn.Flatten()] if len(shape) == IMAGE_DIMENSIONS else []
    modules = [*flatten, nn.Linear(inputs, dense.units), *_activation(dense.activation)]
    return modules, (shape[0], dense.units) if sequence else (dense.units,)


def _add_convolution(conv: Conv2d, shape: Shape, name: str) -> Added:
    channels, height, width = _image(shape, _field(name, "conv2d"))
    size = tuple((side + 2 * conv.padding - conv.kernel_size) // conv.stride + 1 for side in (height, width))
    if min(height, width) + 2 * conv.padding < conv.kernel_size:
        raise UserError(
            f"{_field(name, 'conv2d')}: a {conv.kernel_size}x{conv.kernel_size} kernel with padding {conv.padding} does "
            f"not fit an image of {channels}x{height}x{width}",
            "use fewer or smaller layers, or more padding",
        )
    module = nn.Conv2d(channels, conv.channels, conv.kernel_size, conv.stride, conv.padding)
    return [module, *_activation(conv.activation)], (conv.channels, *size)


def _add_max_pool(pool: Pool2d, shape: Shape, name: str) -> Added:
    stride, shape = _pooled(pool, shape, _field(name, "maxPool2d"))
    return [nn.MaxPool2d(pool.kernel_size, stride)], shape


def _add_avg_pool(pool: Pool2d, shape: Shape, name: str) -> Added:
    stride, shape = _pooled(pool, shape, _field(name, "avgPool2d"))
    return [nn.AvgPool2d(pool.kernel_size, stride)], shape


def _pooled(pool: Pool2d, shape: Shape, field: str) -> tuple[int, Shape]:
    channels, height, width = _image(shape, field)
    stride = pool.stride or pool.kernel_size
    if min(height, width) < pool.kernel_size:
        raise UserError(
            f"{field}: a {pool.kernel_size}x{pool.kernel_size} window does not fit an image of "
            f"{channels}x{height}x{width}",
            "use fewer pooling layers or a smaller window",
        )
    size = tuple((side - pool.kernel_size) // stride + 1 for side in (height, width))
    return stride, (channels, *size)


def _add_global_pool(_: object, shape: Shape, name: str) -> Added:
    if len(shape) == SEQUENCE_DIMENSIONS:
        return [MeanOfReal()], shape[1:]
    channels, *_size = _image(shape, f"{name}.globalAvgPool")
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()], (channels,)


def _add_batch_norm(norm: BatchNorm, shape: Shape, name: str) -> Added:
    if len(shape) == SEQUENCE_DIMENSIONS:
        raise UserError(
            f"{name}.batchNorm: needs images or vectors, but gets {_describe(shape)}", "use layerNorm for sequences"
        )
    kind = nn.BatchNorm2d if len(shape) == IMAGE_DIMENSIONS else nn.BatchNorm1d
    return [kind(shape[0], norm.epsilon, norm.momentum), *_activation(norm.activation)], shape


def _add_layer_norm(norm: LayerNorm, shape: Shape, _: str) -> Added:
    over = shape[1:] if len(shape) == SEQUENCE_DIMENSIONS else shape
    return [nn.LayerNorm(over, norm.epsilon), *_activation(norm.activation)], shape


def _add_flatten(_: object, shape: Shape, name: str) -> Added:
    if len(shape) == SEQUENCE_DIMENSIONS:
        raise UserError(
            f"{name}.flatten: cannot flatten {_describe(shape)}, since sequences differ in length",
            "use globalAvgPool, or a recurrent layer with output: lastState",
        )
    return [nn.Flatten()], (math.prod(shape),)


def _add_recurrent(layer: Layer, shape: Shape, name: str) -> Added:
    kind = next(kind for kind in (ModelName.RNN, ModelName.LSTM, ModelName.GRU) if getattr(layer, kind) is not None)
    part: Recurrent = getattr(layer, kind)
    if len(shape) != SEQUENCE_DIMENSIONS:
        raise UserError(
            f"{name}.{kind}: needs a sequence, but gets {_describe(shape)}",
            "put it after an embedding or a recurrent layer with output: sequence, or use frames as data",
        )
    module = RecurrentLayers(
        kind, shape[1], part.units, layers=part.layers, bidirectional=part.bidirectional, dropout=part.dropout
    )
    if part.output == RecurrentOutput.LAST_STATE:
        return [LastState(module)], (module.features,)
    return [module], (shape[0], module.features)


_ADDERS: dict[str, Callable[..., Added]] = {
    "dense": _add_dense,
    "conv2d": _add_convolution,
    "max_pool2d": _add_max_pool,
    "avg_pool2d": _add_avg_pool,
    "global_avg_pool": _add_global_pool,
    "batch_norm": _add_batch_norm,
    "layer_norm": _add_layer_norm,
    "flatten": _add_flatten,
}


def _image(shape: Shape, name: str) -> tuple[int, int, int]:
    if len(shape) != IMAGE_DIMENSIONS:
        raise UserError(
            f"{name}: needs images of channels x height x width, but gets {_describe(shape)}",
            "put it before the first dense or flatten layer, and use it with image data",
        )
    return shape[0], shape[1], shape[2]


def _describe(shape: Shape) -> str:
    if len(shape) == 1:
        return f"{shape[0]} numbers per sample"
    if len(shape) == SEQUENCE_DIMENSIONS:
        return f"sequences of {shape[0]} x {shape[1]}"
    return f"images of {'x'.join(map(str, shape))}"


def _activation(activation: Activation) -> list[nn.Module]:
    kind = _ACTIVATIONS[activation]
    return [] if kind is None else [kind()]
