"""Expands the models linear, mlp, cnn and lenet into the layers that a user could also list."""

from collections.abc import Sequence

from trainwright.api.spec.architecture import CnnArgs, LenetArgs, MlpArgs
from trainwright.api.spec.layer import Activation, Conv2d, Dense, Dropout, Layer, Pool2d
from trainwright.api.spec.model import ModelSpec


def expand(model: ModelSpec, outputs: int, dropout: float = 0) -> list[Layer]:
    """Return the layers of a list of layers, or of linear, mlp, cnn or lenet.

    Args:
        model: The model as specified.
        outputs: Number of outputs that the data requires (classes or targets). The last layer of a named model has this many.
        dropout: Rate of the dropout layer added after every dense layer that has an activation and is not the last.

    Returns:
        The layers in order. If the user listed the layers, the last one is kept and `outputs` is ignored.
    """
    layers = _named(model, outputs) if model.layers is None else list(model.layers)
    return _with_dropout(layers, dropout) if dropout else layers


def _named(model: ModelSpec, outputs: int) -> list[Layer]:
    last = Layer(dense=Dense(units=outputs))
    match model.resolved_args():
        case MlpArgs() as args:
            return [*_hidden(args.hidden, args.activation), last]
        case CnnArgs() as args:
            blocks = [layer for channels in args.channels for layer in _block(channels, args)]
            return [*blocks, *_hidden(args.hidden, args.activation), last]
        case LenetArgs():
            relu = Activation.RELU
            return [
                Layer(conv2d=Conv2d(channels=6, kernel_size=5, activation=relu)),
                Layer(max_pool2d=Pool2d()),
                Layer(conv2d=Conv2d(channels=16, kernel_size=5, activation=relu)),
                Layer(max_pool2d=Pool2d()),
                *_hidden([120, 84], relu),
                last,
            ]
        case _:
            return [last]


def _hidden(widths: Sequence[int], activation: Activation) -> list[Layer]:
    return [Layer(dense=Dense(units=width, activation=activation)) for width in widths]


def _block(channels: int, args: CnnArgs) -> list[Layer]:
    convolution = Conv2d(
        channels=channels, kernel_size=args.kernel_size, padding=args.padding, activation=args.activation
    )
    return [Layer(conv2d=convolution), Layer(max_pool2d=Pool2d())]


def _with_dropout(layers: list[Layer], rate: float) -> list[Layer]:
    result: list[Layer] = []
    for layer in layers[:-1]:
        result.append(layer)
        if layer.dense is not None and layer.dense.activation != Activation.NONE:
            result.append(Layer(dropout=Dropout(rate=rate)))
    return [*result, layers[-1]]
