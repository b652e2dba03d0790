"""The models that Trainwright knows by name, and the arguments that each of them takes."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from trainwright.api.base import Model
from trainwright.api.spec.layer import Activation

Width = Annotated[int, Field(ge=1, le=1_000_000)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class ModelName(StrEnum):
    """The models that Trainwright knows by name."""

    LINEAR = "linear"
    MLP = "mlp"
    CNN = "cnn"
    LENET = "lenet"
    RNN = "rnn"
    LSTM = "lstm"
    GRU = "gru"
    TRANSFORMER = "transformer"
    GPT = "gpt"


class Pooling(StrEnum):
    """How the positions of a sequence become one vector."""

    LAST = "last"
    MEAN = "mean"


class Positions(StrEnum):
    """How a Transformer encodes the order of its inputs."""

    LEARNED = "learned"
    SINUSOIDAL = "sinusoidal"
    ROTARY = "rotary"


class GptSize(StrEnum):
    """Published sizes: the first four are GPT-2's, the others GPT-3's."""

    GPT2_124M = "124M"
    GPT2_355M = "355M"
    GPT2_774M = "774M"
    GPT2_1_5B = "1.5B"
    GPT3_125M = "125M"
    GPT3_350M = "350M"
    GPT3_760M = "760M"
    GPT3_1_3B = "1.3B"
    GPT3_2_7B = "2.7B"
    GPT3_6_7B = "6.7B"
    GPT3_13B = "13B"
    GPT3_175B = "175B"


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


class RecurrentArgs(Model):
    """Arguments of `rnn`, `lstm` and `gru`: an embedding (of text), recurrent layers, dropout, then the outputs."""

    embedding: int = Field(64, ge=1, le=65_536, description="Length of a token's vector; unused for frames.")
    hidden: int = Field(64, ge=1, le=65_536, description="Length of the hidden state.")
    layers: int = Field(1, ge=1, le=64, description="Number of recurrent layers.")
    bidirectional: bool = Field(False, description="Whether to read in both directions.")
    pooling: Pooling = Field(
        Pooling.LAST,
        description="last: the state after the last real position. mean: the mean over the real positions. "
        "Unused where every position has outputs of its own.",
    )
    dropout: Rate | None = Field(
        None, description="Dropout between the layers and before the outputs; regularization.dropout by default."
    )


class TransformerArgs(Model):
    """Arguments of `transformer`: a pre-norm Transformer; a causal decoder for language modelling, else an encoder."""

    dimension: int = Field(128, ge=1, le=65_536, description="Length of the vector of each position.")
    heads: int = Field(4, ge=1, le=1_024, description="Attention heads; they divide the dimension.")
    layers: int = Field(2, ge=1, le=1_024, description="Number of blocks.")
    feed_forward: int | None = Field(
        None, ge=1, le=1_000_000, description="Width inside the feed-forward part; four times the dimension by default."
    )
    dropout: Rate | None = Field(None, description="Dropout; regularization.dropout by default.")
    positions: Positions = Field(Positions.LEARNED, description="learned, sinusoidal or rotary.")


class GptArgs(Model):
    """Arguments of `gpt`: GPT-2's architecture. A size sets every argument that is not set explicitly."""

    size: GptSize | None = Field(None, description="A published size of GPT-2 or GPT-3.")
    layers: int | None = Field(None, ge=1, le=1_024, description="Number of blocks; 6 without a size.")
    heads: int | None = Field(None, ge=1, le=1_024, description="Attention heads; 6 without a size.")
    dimension: int | None = Field(
        None, ge=1, le=65_536, description="Length of the vector of each position; 384 without a size."
    )
    context: int | None = Field(
        None, ge=1, le=10_000_000, description="Longest sequence; without a size, as long as the data's sequences."
    )
    vocabulary: int | None = Field(
        None, ge=1, le=100_000_000, description="Number of different tokens; that of the tokenizer by default."
    )
    vocabulary_multiple: int = Field(
        1, ge=1, le=1_024, description="The vocabulary is padded to a multiple of this; 64 is fast on GPUs."
    )
    dropout: Rate | None = Field(None, description="Dropout; regularization.dropout by default.")


ModelArgs = LinearArgs | MlpArgs | CnnArgs | LenetArgs | RecurrentArgs | TransformerArgs | GptArgs

ARGS: dict[ModelName, type[ModelArgs]] = {
    ModelName.LINEAR: LinearArgs,
    ModelName.MLP: MlpArgs,
    ModelName.CNN: CnnArgs,
    ModelName.LENET: LenetArgs,
    ModelName.RNN: RecurrentArgs,
    ModelName.LSTM: RecurrentArgs,
    ModelName.GRU: RecurrentArgs,
    ModelName.TRANSFORMER: TransformerArgs,
    ModelName.GPT: GptArgs,
}
