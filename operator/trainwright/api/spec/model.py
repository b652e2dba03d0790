"""The model: a list of layers, or the name of a model that Trainwright knows, which stands for such a list."""

import json
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, JsonValue, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from trainwright.api.base import Model, Rule, one_of


class Activation(StrEnum):
    """What follows a layer."""

    NONE = "none"
    RELU = "relu"
    GELU = "gelu"
    TANH = "tanh"
    SIGMOID = "sigmoid"


class Dense(Model):
    """A fully connected layer. A preceding image or sequence is flattened."""

    units: int = Field(ge=1, le=1_000_000, description="Number of outputs.")
    inputs: int | None = Field(
        None,
        ge=1,
        le=100_000_000,
        description="Number of inputs you expect. Never needed; when given, preflight fails if the layers before "
        "produce another number.",
    )
    activation: Activation = Field(Activation.NONE, description="Activation applied to the outputs.")


class Conv2d(Model):
    """A two-dimensional convolution over (channels, height, width)."""

    channels: int = Field(ge=1, le=65_536, description="Number of output channels (filters).")
    kernel_size: int = Field(ge=1, le=1_024, description="Height and width of the kernel, in pixels.")
    stride: int = Field(1, ge=1, le=1_024, description="Step of the kernel, in pixels.")
    padding: int = Field(0, ge=0, le=1_024, description="Zeros added on every side, in pixels.")
    activation: Activation = Field(Activation.NONE, description="Activation applied to the outputs.")


class MaxPool2d(Model):
    """The maximum over windows of an image."""

    kernel_size: int = Field(2, ge=1, le=1_024, description="Height and width of the window, in pixels.")
    stride: int | None = Field(None, ge=1, le=1_024, description="Step of the window; the window's size by default.")


class Flatten(Model):
    """Turns an image into a vector. Dense layers do so by themselves."""


class Dropout(Model):
    """Zeroes random activations during training."""

    rate: float = Field(ge=0, lt=1, description="Probability with which an activation is zeroed.")


class Layer(Model):
    """One layer: exactly one of the fields is set."""

    dense: Dense | None = Field(None, description="A fully connected layer.")
    conv2d: Conv2d | None = Field(None, description="A two-dimensional convolution.")
    max_pool2d: MaxPool2d | None = Field(None, description="Two-dimensional max pooling.")
    flatten: Flatten | None = Field(None, description="Turn an image into a vector.")
    dropout: Dropout | None = Field(None, description="Dropout.")

    rules = (one_of("dense", "conv2d", "max_pool2d", "flatten", "dropout", what="layer"),)


Width = Annotated[int, Field(ge=1, le=1_000_000)]


class ModelName(StrEnum):
    """The models that Trainwright knows by name."""

    LINEAR = "linear"
    MLP = "mlp"
    CNN = "cnn"
    LENET = "lenet"


class LinearArgs(Model):
    """Arguments of `linear`: one dense layer from the features to the outputs. It has none."""


class MlpArgs(Model):
    """Arguments of `mlp`: hidden dense layers, then the outputs."""

    hidden: list[Width] = Field([128], max_length=64, description="Width of each hidden layer.")
    activation: Activation = Field(Activation.RELU, description="Activation of the hidden layers.")


class CnnArgs(Model):
    """Arguments of `cnn`: convolution and pooling blocks, hidden dense layers, then the outputs."""

    channels: list[Width] = Field([32, 64], min_length=1, max_length=16, description="Channels of each block.")
    kernel_size: int = Field(3, ge=1, le=31, description="Kernel size of every convolution, in pixels.")
    padding: int = Field(1, ge=0, le=31, description="Padding of every convolution, in pixels.")
    hidden: list[Width] = Field([64], max_length=64, description="Width of each hidden dense layer.")
    activation: Activation = Field(Activation.RELU, description="Activation of the hidden layers.")


class LenetArgs(Model):
    """Arguments of `lenet`: the classic five-layer network. It has none."""


ModelArgs = LinearArgs | MlpArgs | CnnArgs | LenetArgs

_ARGS: dict[ModelName, type[ModelArgs]] = {
    ModelName.LINEAR: LinearArgs,
    ModelName.MLP: MlpArgs,
    ModelName.CNN: CnnArgs,
    ModelName.LENET: LenetArgs,
}


class ModelSpec(Model):
    """The model to train: `layers` in order, or a `name` with `args`."""

    name: ModelName | None = Field(
        None,
        description="A model that Trainwright knows: linear (one dense layer), mlp (hidden dense layers), cnn "
        "(convolution and pooling blocks), lenet (LeNet-5). The number of outputs follows from the data.",
    )
    args: dict[str, JsonValue] | None = Field(
        None,
        max_length=32,
        description="Arguments of the named model. mlp: hidden (list of widths), activation. cnn: channels (list), "
        "kernelSize, padding, hidden, activation.",
    )
    layers: list[Layer] | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="The layers in order. The input shape follows from the data, so no layer needs its inputs. Do not "
        "end a classifier with a softmax: the cross-entropy loss applies it.",
    )

    rules = (
        one_of("name", "layers", what="model"),
        Rule(
            field="args",
            message="args belong to a named model: set name, or remove args",
            cel="!has(self.args) || has(self.name)",
            holds=lambda self: self.args is None or self.name is not None,
        ),
    )

    @model_validator(mode="after")
    def _args_fit_the_name(self) -> Self:
        self.resolved_args()
        return self

    def resolved_args(self) -> ModelArgs | None:
        """Return the typed arguments of the named model with defaults filled in; None for a list of layers.

        Raises:
            PydanticCustomError: An argument is unknown or out of bounds. The API server cannot know; we can.
        """
        if self.name is None:
            return None
        kind = _ARGS[self.name]
        try:
            return kind.model_validate_json(json.dumps(self.args or {}), by_alias=True, by_name=False)
        except ValidationError as error:
            first = error.errors()[0]
            path = "args" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
            known = ", ".join(field.alias or name for name, field in kind.model_fields.items()) or "none"
            raise PydanticCustomError(
                "rule",
                "{message}",
                {"message": f"{first['msg']} (model {self.name} takes: {known})", "field": path},
            ) from None
