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
    """What a recurrent model remembers of the positions it has read, for generation.

    Attributes:
        hidden: The state of its cells; None before the first position.
        length: Positions read so far.
    """

    hidden: Any = None
    length: int = 0


class RecurrentLayers(nn.Module):
    """Recurrent layers that padding does not disturb."""

    def __init__(
        self, kind: ModelName, inputs: int, hidden: int, *, layers: int, bidirectional: bool, dropout: float
    ) -> None:
        """Draw the weights.

        Args:
            kind: rnn, lstm or gru.
            inputs: Features of a position.
            hidden: Length of the hidden state.
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
        """Map [batch, length, inputs] to [batch, length, features], going on from `state` and updating it."""
        if mask is not None and self.cells.bidirectional:
            # Reading backwards starts in the padding, unless it is taken out. Forwards, it comes after all that counts.
            packed = pack_padded_sequence(inputs, lengths(mask).cpu(), batch_first=True, enforce_sorted=False)
            padded, _ = pad_packed_sequence(self.cells(packed)[0], batch_first=True, total_length=inputs.shape[1])
            return padded
        outputs: Tensor
        outputs, hidden = self.cells(inputs, None if state is None else state.hidden)
        if state is not None:
            state.hidden, state.length = hidden, state.length + inputs.shape[1]
        return outputs

    def last(self, outputs: Tensor, mask: Tensor | None) -> Tensor:
        """Return the final state of each direction: [batch, features] of what `forward` returned."""
        last = last_real(outputs, mask)
        if not self.cells.bidirectional:
            return last
        half = self.features // 2
        return cat((last[:, :half], outputs[:, 0, half:]), 1)


class LastState(nn.Module):
    """Recurrent layers of which only the final state is handed on, as one layer."""

    def __init__(self, layers: RecurrentLayers) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map [batch, length, inputs] to [batch, features]."""
        return self.layers.last(self.layers(inputs, mask), mask)


class RecurrentModel(nn.Module):
    """A recurrent classifier or regressor, language model, or transcriber.

    Attributes:
        vocabulary: Number of different outputs, of which generation draws.
        context: How many positions it can look back; None for any number.
    """

    context: int | None = None

    def __init__(self, kind: ModelName, args: RecurrentArgs, facts: Facts, dropout: float, *, pooled: bool) -> None:
        """Draw the weights.

        Args:
            kind: rnn, lstm or gru.
            args: Its arguments.
            facts: What the data asks of a model.
            dropout: Dropout between the layers and before the outputs.
            pooled: Whether a sequence gets one vector of outputs, rather than every position.
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
            mask: [batch, length], true where the inputs are real; None if all are.
            cache: What was read before the inputs; it then includes them.

        Returns:
            [batch, outputs]; [batch, length, outputs] for language modelling and transcription; only those of the last
            position, [batch, 1, outputs], with a cache.
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
        """Return the memory of a model that has read nothing."""
        return State()
