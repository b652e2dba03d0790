"""Recurrent models of text and frames: an embedding, RNN, LSTM or GRU layers, dropout, and the outputs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, cat, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from trainwright.api.spec.architecture import ModelName, Pooling, RecurrentArgs
from trainwright_worker.facts import Facts
from trainwright_worker.models.pooling import last_real, lengths, mean_of_real

CELLS: Final[dict[ModelName, Callable[..., nn.RNNBase]]] = {
    ModelName.RNN: nn.RNN,
    ModelName.LSTM: nn.LSTM,
    ModelName.GRU: nn.GRU,
}


@dataclass
class State:
    """State of a recurrent model after the positions read so far, for generation.

    Attributes:
        hidden: Hidden state of the cells; None before the first position.
        length: Number of positions read so far.
    """

    hidden: Any = None
    length: int = 0


class RecurrentLayers(nn.Module):
    """Recurrent layers whose outputs do not depend on padding."""

    def __init__(
        self, kind: ModelName, inputs: int, hidden: int, *, layers: int, bidirectional: bool, dropout: float
    ) -> None:
        """Initialize the weights.

        Args:
            kind: rnn, lstm or gru.
            inputs: Number of features per position.
            hidden: Size of the hidden state.
            layers: Number of layers.
            bidirectional: Whether to read in both directions.
            dropout: Dropout between the layers.
        """
        super().__init__()
        self.cells = CELLS[kind](
            inputs,
            hidden,
            layers,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
            bidirectional=bidirectional,
        )
        self.features = hidden * (2 if bidirectional else 1)

    def forward(self, inputs: Tensor, mask: Tensor | None = None, state: State | None = None) -> Tensor:
        """Map [batch, length, inputs] to [batch, length, features], continuing from `state` and updating it."""
        if mask is not None and self.cells.bidirectional:
            # The backward direction would start in the padding, so remove it. In the forward direction, padding comes
            # last and does not affect real positions.
            packed = pack_padded_sequence(inputs, lengths(mask).cpu(), batch_first=True, enforce_sorted=False)
            padded, _ = pad_packed_sequence(self.cells(packed)[0], batch_first=True, total_length=inputs.shape[1])
            return padded
        outputs: Tensor
        outputs, hidden = self.cells(inputs, None if state is None else state.hidden)
        if state is not None:
            state.hidden, state.length = hidden, state.length + inputs.shape[1]
        return outputs

    def last(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return the final state of each direction as [batch, features], taken from the outputs of `forward`."""
        last = last_real(outputs, mask)
        if not self.cells.bidirectional:
            return last
        half = self.features // 2
        return cat((last[:, :half], outputs[:, 0, half:]), 1)


class LastState(nn.Module):
    """Recurrent layers that return only their final state."""

    def __init__(self, layers: RecurrentLayers) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map [batch, length, inputs] to [batch, features]."""
        return self.layers.last(self.layers(inputs, mask), mask)


class RecurrentModel(nn.Module):
    """A recurrent classifier or regressor, language model, or transcriber.

    Attributes:
        vocabulary: Number of outputs, from which generation samples.
        context: Maximum sequence length; None, because it is unlimited.
    """

    context: int | None = None

    def __init__(self, kind: ModelName, args: RecurrentArgs, facts: Facts, dropout: float, *, pooled: bool) -> None:
        """Initialize the weights.

        Args:
            kind: rnn, lstm or gru.
            args: The arguments of the model.
            facts: Input shape, number of outputs and vocabulary size of the data.
            dropout: Dropout probability between the layers and before the output layer.
            pooled: Whether the model returns one vector of outputs per sequence, rather than one per position.
        """
        super().__init__()
        self.vocabulary = facts.outputs
        self.pooling = args.pooling if pooled else None
        self.embedding = None if facts.vocabulary is None else nn.Embedding(facts.vocabulary, args.embedding)
        self.layers = RecurrentLayers(
            kind,
            facts.shape[1] if self.embedding is None else args.embedding,
            args.hidden,
            layers=args.layers,
            bidirectional=args.bidirectional,
            dropout=dropout,
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.layers.features, facts.outputs)

    def forward(self, inputs: Tensor, mask: Tensor | None = None, cache: State | None = None) -> Tensor:
        """Return logits.

        Args:
            inputs: Token ids [batch, length] or frames [batch, length, features].
            mask: [batch, length], true for real positions, false for padding; None if there is no padding.
            cache: State after the positions before the inputs; updated to include the inputs.

        Returns:
            [batch, outputs]; [batch, length, outputs] for language modelling and transcription, or [batch, 1, outputs]
            (the last position) with a cache.
        """
        outputs = self.layers(inputs if self.embedding is None else self.embedding(inputs), mask, cache)
        if self.pooling == Pooling.LAST:
            outputs = self.layers.last(outputs, mask)
        elif self.pooling == Pooling.MEAN:
            outputs = mean_of_real(outputs, mask)
        elif cache is not None:
            outputs = outputs[:, -1:]
        logits: Tensor = self.head(self.dropout(outputs))
        return logits

    def new_cache(self) -> State:
        """Return the initial state for generation."""
        return State()
