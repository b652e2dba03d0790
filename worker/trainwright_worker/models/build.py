"""From the layers of the API to a torch module, with every shape checked before a weight is allocated.

Shapes are followed by arithmetic, layer by layer, so a mistake is named with its index and the shape it met, without
running anything and without touching a device.
"""

import math

from torch import nn

from trainwright.api.layers import expand
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.job import Task
from trainwright.api.spec.model import Activation, Conv2d, Dense, Layer, MaxPool2d
from trainwright_worker.data.dataset import Facts
from trainwright_worker.errors import UserError

Shape = tuple[int, ...]
"""Shape of one sample, without the batch."""

IMAGE_DIMENSIONS = 3

_ACTIVATIONS: dict[Activation, type[nn.Module] | None] = {
    Activation.NONE: None,
    Activation.RELU: nn.ReLU,
    Activation.GELU: nn.GELU,
    Activation.TANH: nn.Tanh,
    Activation.SIGMOID: nn.Sigmoid,
}


def build(spec: TrainingJobSpec, facts: Facts) -> nn.Module:
    """Return the model with freshly drawn weights (from torch's global generator).

    Args:
        spec: The job.
        facts: What the data asks of a model.

    Raises:
        UserError: A layer does not fit what comes before it; names the layer.
    """
    shape, outputs = facts.shape, facts.outputs
    layers = expand(spec.model, outputs, spec.regularization.dropout)
    modules: list[nn.Module] = []
    written = 0
    for layer in layers:
        added, shape = _add(layer, shape, _name(spec, written))
        modules += added
        # Dropout layers that regularization added are not in the manifest and must not shift its indices.
        written += spec.model.layers is not None and any(layer is own for own in spec.model.layers)
    if math.prod(shape) != outputs:
        raise UserError(_wrong_outputs(spec, written - 1, shape, outputs))
    if len(shape) > 1:
        modules.append(nn.Flatten())
    return nn.Sequential(*modules)


def _name(spec: TrainingJobSpec, index: int) -> str:
    # A named model's layers are not in the manifest; say whose layer it is.
    return f"spec.model.layers[{index}]" if spec.model.layers is not None else f"spec.model.name: {spec.model.name}"


def _wrong_outputs(spec: TrainingJobSpec, index: int, shape: Shape, outputs: int) -> str:
    need = f"the data has {outputs} classes" if spec.task == Task.CLASSIFICATION else "a regression has one target"
    return f"{_name(spec, index)}: the last layer has {math.prod(shape)} outputs, but {need}"


def _add(layer: Layer, shape: Shape, name: str) -> tuple[list[nn.Module], Shape]:
    if layer.dense is not None:
        return _add_dense(layer.dense, shape, name)
    if layer.conv2d is not None:
        return _add_convolution(layer.conv2d, shape, name)
    if layer.max_pool2d is not None:
        return _add_pool(layer.max_pool2d, shape, name)
    if layer.dropout is not None:
        return [nn.Dropout(layer.dropout.rate)], shape
    return [nn.Flatten()], (math.prod(shape),)


def _add_dense(dense: Dense, shape: Shape, name: str) -> tuple[list[nn.Module], Shape]:
    inputs = math.prod(shape)
    if dense.inputs is not None and dense.inputs != inputs:
        raise UserError(
            f"{name}.dense.inputs: {dense.inputs} given, but the layers before it produce {inputs}",
            "remove it: the number follows from the layers before",
        )
    flatten = [nn.Flatten()] if len(shape) > 1 else []
    return [*flatten, nn.Linear(inputs, dense.units), *_activation(dense.activation)], (dense.units,)


def _add_convolution(conv: Conv2d, shape: Shape, name: str) -> tuple[list[nn.Module], Shape]:
    channels, height, width = _image(shape, f"{name}.conv2d" if "[" in name else name)
    size = tuple((side + 2 * conv.padding - conv.kernel_size) // conv.stride + 1 for side in (height, width))
    if min(height, width) + 2 * conv.padding < conv.kernel_size:
        raise UserError(
            f"{name}{'.conv2d' if '[' in name else ''}: a {conv.kernel_size}x{conv.kernel_size} kernel with padding "
            f"{conv.padding} does not fit an image of {channels}x{height}x{width}",
            "use fewer or smaller layers, or more padding",
        )
    module = nn.Conv2d(channels, conv.channels, conv.kernel_size, conv.stride, conv.padding)
    return [module, *_activation(conv.activation)], (conv.channels, *size)


def _add_pool(pool: MaxPool2d, shape: Shape, name: str) -> tuple[list[nn.Module], Shape]:
    channels, height, width = _image(shape, f"{name}.maxPool2d" if "[" in name else name)
    stride = pool.stride or pool.kernel_size
    if min(height, width) < pool.kernel_size:
        raise UserError(
            f"{name}{'.maxPool2d' if '[' in name else ''}: a {pool.kernel_size}x{pool.kernel_size} window does not fit "
            f"an image of {channels}x{height}x{width}",
            "use fewer pooling layers or a smaller window",
        )
    size = tuple((side - pool.kernel_size) // stride + 1 for side in (height, width))
    return [nn.MaxPool2d(pool.kernel_size, stride)], (channels, *size)


def _image(shape: Shape, name: str) -> tuple[int, int, int]:
    if len(shape) != IMAGE_DIMENSIONS:
        raise UserError(
            f"{name}: needs images of channels x height x width, but gets {shape[0]} numbers per sample",
            "put it before the first dense or flatten layer, and use it with image data",
        )
    return shape[0], shape[1], shape[2]


def _activation(activation: Activation) -> list[nn.Module]:
    kind = _ACTIVATIONS[activation]
    return [] if kind is None else [kind()]
