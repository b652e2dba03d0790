"""The layers that a user may list; `trainwright_worker.models.layers` builds them and follows their shapes."""

from enum import StrEnum

from pydantic import Field

from trainwright.api.base import Model, one_of


class Activation(StrEnum):
    """The activation function after a layer."""

    NONE = "none"
    RELU = "relu"
    GELU = "gelu"
    TANH = "tanh"
    SIGMOID = "sigmoid"


class RecurrentOutput(StrEnum):
    """The output of a recurrent layer."""

    LAST_STATE = "lastState"
    SEQUENCE = "sequence"


class Dense(Model):
    """A fully connected layer. An image is flattened first; a sequence is processed position by position."""

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


class Pool2d(Model):
    """Pooling: keeps the maximum or the mean of each window of an image."""

    kernel_size: int = Field(2, ge=1, le=1_024, description="Height and width of the window, in pixels.")
    stride: int | None = Field(None, ge=1, le=1_024, description="Step of the window; the window's size by default.")


class GlobalAvgPool(Model):
    """The mean over an image's pixels, per channel, or over a sequence's real positions, per feature."""


class BatchNorm(Model):
    """Batch normalization of an image's channels or of a vector's features."""

    momentum: float = Field(0.1, gt=0, le=1, description="Share of the newest batch in the running statistics.")
    epsilon: float = Field(1e-5, gt=0, le=1, description="Added to the variance.")
    activation: Activation = Field(Activation.NONE, description="Activation applied to the outputs.")


class LayerNorm(Model):
    """Layer normalization of an image, of a vector, or of each position of a sequence."""

    epsilon: float = Field(1e-5, gt=0, le=1, description="Added to the variance.")
    activation: Activation = Field(Activation.NONE, description="Activation applied to the outputs.")


class Embedding(Model):
    """Turns token ids into vectors. It must be the first layer and needs a text dataset."""

    dimension: int = Field(ge=1, le=65_536, description="Length of the vector of each token.")
    vocabulary: int | None = Field(
        None,
        ge=1,
        le=100_000_000,
        description="Number of different tokens; that of the tokenizer by default, and never less.",
    )


class Recurrent(Model):
    """A recurrent layer over a sequence. Padding never affects its output."""

    units: int = Field(ge=1, le=65_536, description="Length of the hidden state.")
    layers: int = Field(1, ge=1, le=64, description="Number of layers, each reading the outputs of the one before.")
    bidirectional: bool = Field(False, description="Whether to read in both directions; doubles the outputs.")
    dropout: float = Field(0, ge=0, lt=1, description="Dropout between its layers.")
    output: RecurrentOutput = Field(
        RecurrentOutput.LAST_STATE, description="lastState: one vector per sequence. sequence: one per position."
    )


class Flatten(Model):
    """Turns an image into a vector. Dense layers do so by themselves."""


class Dropout(Model):
    """Zeroes random activations during training."""

    rate: float = Field(ge=0, lt=1, description="Probability with which an activation is zeroed.")


class Layer(Model):
    """One layer: exactly one of the fields is set."""

    dense: Dense | None = Field(None, description="A fully connected layer.")
    conv2d: Conv2d | None = Field(None, description="A two-dimensional convolution.")
    max_pool2d: Pool2d | None = Field(None, description="Two-dimensional max pooling.")
    avg_pool2d: Pool2d | None = Field(None, description="Two-dimensional average pooling.")
    global_avg_pool: GlobalAvgPool | None = Field(None, description="The mean over an image or a sequence.")
    batch_norm: BatchNorm | None = Field(None, description="Batch normalization.")
    layer_norm: LayerNorm | None = Field(None, description="Layer normalization.")
    embedding: Embedding | None = Field(None, description="Vectors for token ids; the first layer for text.")
    rnn: Recurrent | None = Field(None, description="A simple recurrent layer (tanh).")
    lstm: Recurrent | None = Field(None, description="Long short-term memory.")
    gru: Recurrent | None = Field(None, description="Gated recurrent units.")
    flatten: Flatten | None = Field(None, description="Turn an image into a vector.")
    dropout: Dropout | None = Field(None, description="Dropout.")

    rules = (
        one_of(
            "dense", "conv2d", "max_pool2d", "avg_pool2d", "global_avg_pool", "batch_norm", "layer_norm", "embedding",
            "rnn", "lstm", "gru", "flatten", "dropout", what="layer",
        ),
    )  # fmt: skip
