"""A pre-norm Transformer: an encoder, or a causal decoder that predicts the next token, such as GPT-2."""

import math
from dataclasses import dataclass
from typing import Final, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from trainwright.api.spec.architecture import Positions
from trainwright_worker.models.pooling import mean_of_real

DEVIATION: Final = 0.02
"""Standard deviation of initial weights, as in GPT-2 and BERT."""
WAVELENGTH: Final = 10_000.0
"""Longest wavelength of sinusoidal and rotary positions, divided by two pi."""


@dataclass(frozen=True)
class TransformerConfig:
    """The hyperparameters of a Transformer.

    Attributes:
        dimension: Hidden dimension.
        heads: Number of attention heads, a divisor of the dimension.
        layers: Number of blocks.
        feed_forward: Inner dimension of the feed-forward layers.
        dropout: Dropout probability of embeddings, attention weights and the outputs of each block's two parts.
        positions: Kind of position encoding.
        context: Maximum sequence length.
        causal: Whether a position attends only to itself and to earlier positions.
        outputs: Number of outputs; None to predict tokens with the weights of the embedding.
        pooled: Whether the model returns one vector of outputs per sequence, rather than one per position.
        gelu: The exact GELU, or GPT-2's approximation by tanh.
    """

    dimension: int
    heads: int
    layers: int
    feed_forward: int
    dropout: float
    positions: Positions
    context: int
    causal: bool
    outputs: int | None
    pooled: bool
    gelu: Literal["none", "tanh"] = "none"


class Memory:
    """Cache of the keys and values of one block, for generation."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    @property
    def length(self) -> int:
        """Number of positions read so far."""
        return 0 if self.keys is None else self.keys.shape[2]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add positions ([batch, heads, length, features]) and return all of them."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat((self.keys, keys), 2), torch.cat((self.values, values), 2)
        self.keys, self.values = keys, values
        return keys, values


class Projection(nn.Linear):
    """A linear layer with normally distributed initial weights and a zero initial bias."""

    def __init__(self, inputs: int, outputs: int, deviation: float = DEVIATION) -> None:
        self.deviation = deviation  # The constructor of the base class calls reset_parameters.
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        """Initialize the weights."""
        nn.init.normal_(self.weight, std=self.deviation)
        nn.init.zeros_(self.bias)


class Table(nn.Embedding):
    """An embedding whose initial weights have the given standard deviation."""

    def __init__(self, entries: int, dimension: int, deviation: float = DEVIATION) -> None:
        self.deviation = deviation  # The constructor of the base class calls reset_parameters.
        super().__init__(entries, dimension)

    def reset_parameters(self) -> None:
        """Initialize the weights."""
        nn.init.normal_(self.weight, std=self.deviation)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: TransformerConfig, deviation: float) -> None:
        super().__init__()
        self.heads, self.causal, self.dropout = config.heads, config.causal, config.dropout
        self.qkv = Projection(config.dimension, 3 * config.dimension)
        self.out = Projection(config.dimension, config.dimension, deviation)

    def forward(self, x: Tensor, mask: Tensor | None, rotation: Tensor | None, memory: Memory | None) -> Tensor:
        """Map [batch, length, dimension] to the same shape; see `Block.forward`."""
        batch, length, dimension = x.shape
        parts = self.qkv(x).view(batch, length, 3, self.heads, dimension // self.heads)
        queries, keys, values = (part.transpose(1, 2) for part in parts.unbind(2))
        if rotation is not None:
            queries, keys = rotate(queries, rotation), rotate(keys, rotation)
        if memory is not None:
            keys, values = memory.extend(keys, values)
        # With a cache, the single new position attends to all earlier positions, so it needs no mask.
        causal = self.causal and (memory is None or keys.shape[2] == length)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(queries, keys, values, mask, dropout, is_causal=causal)
        mixed = mixed.transpose(1, 2).reshape(batch, length, dimension)
        return F.dropout(self.out(mixed), self.dropout, self.training)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, applied to every position."""

    def __init__(self, config: TransformerConfig, deviation: float) -> None:
        super().__init__()
        self.gelu, self.dropout = config.gelu, config.dropout
        self.up = Projection(config.dimension, config.feed_forward)
        self.down = Projection(config.feed_forward, config.dimension, deviation)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, length, dimension] to the same shape."""
        inner = F.gelu(self.up(x), approximate=self.gelu)
        return F.dropout(self.down(inner), self.dropout, self.training)


class Block(nn.Module):
    """Attention and feed-forward layers, each with a layer norm before it and a residual connection around it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        # Scaled down by the number of residual additions (two per block), so that their sum does not grow with depth.
        deviation = DEVIATION / math.sqrt(2 * config.layers)
        self.norm1 = nn.LayerNorm(config.dimension)
        self.attention = Attention(config, deviation)
        self.norm2 = nn.LayerNorm(config.dimension)
        self.feed_forward = FeedForward(config, deviation)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, rotation: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        """Map [batch, length, dimension] to the same shape.

        Args:
            x: Hidden states.
            mask: [batch, 1, 1, length], true for positions that may be attended to; None if all may.
            rotation: Result of `rotations` for these positions, if position encoding is rotary.
            memory: Cache of earlier positions, if any; updated to include these.
        """
        x = x + self.attention(self.norm1(x), mask, rotation, memory)
        outputs: Tensor = x + self.feed_forward(self.norm2(x))
        return outputs


class Transformer(nn.Module):
    """An encoder or decoder over token ids or frames.

    Attributes:
        vocabulary: Size of the vocabulary, from which generation samples; the embedding may have more rows.
        context: Maximum sequence length.
        blocks: The units of sharding and recomputation.
    """

    def __init__(
        self, config: TransformerConfig, *, vocabulary: int | None = None, features: int = 0, rows: int | None = None
    ) -> None:
        """Initialize the weights.

        Args:
            config: Hyperparameters.
            vocabulary: Size of the vocabulary; None if the inputs are frames.
            features: Number of features of a frame.
            rows: Rows of the embedding, if there are more than tokens; the additional rows are unused.
        """
        super().__init__()
        self.config, self.context, self.vocabulary = config, config.context, vocabulary or 0
        sinusoidal = config.positions == Positions.SINUSOIDAL
        self.inputs: Table | Projection
        if vocabulary is None:
            self.inputs = Projection(features, config.dimension, features**-0.5)
        else:
            # Sinusoids have amplitude 1, so `_embed` scales embeddings up to match, as in "Attention is all you need".
            self.inputs = Table(
                rows or vocabulary, config.dimension, config.dimension**-0.5 if sinusoidal else DEVIATION
            )
        learned = config.positions == Positions.LEARNED
        self.positions = Table(config.context, config.dimension) if learned else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dimension)
        self.head = None if config.outputs is None else Projection(config.dimension, config.outputs)

    def forward(self, inputs: Tensor, mask: Tensor | None = None, cache: list[Memory] | None = None) -> Tensor:
        """Return logits.

        Args:
            inputs: Token ids [batch, length] or frames [batch, length, features].
            mask: [batch, length], true for real positions, false for padding; None if there is no padding. A decoder
                needs none, because its padding comes after all real positions.
            cache: Caches of the earlier positions, one per block; updated to include the inputs, which must then be a
                single position.

        Returns:
            [batch, outputs]; [batch, length, outputs] for transcription; [batch, length, rows of the embedding] for
            language modelling, or [batch, 1, rows] (the last position) with a cache.
        """
        before = cache[0].length if cache else 0
        positions = torch.arange(before, before + inputs.shape[1], device=inputs.device)
        x = F.dropout(self._embed(inputs, positions), self.config.dropout, self.training)
        rotation = None
        if self.config.positions == Positions.ROTARY:
            rotation = rotations(positions, self.config.dimension // self.config.heads)
        visible = None if mask is None or self.config.causal else _visible(mask)
        for number, block in enumerate(self.blocks):
            x = block(x, visible, rotation, cache[number] if cache else None)
        x = self.norm(x if cache is None else x[:, -1:])
        if self.head is None:
            return F.linear(x, self.inputs.weight)
        logits: Tensor = self.head(mean_of_real(x, mask) if self.config.pooled else x)
        return logits

    def new_cache(self) -> list[Memory]:
        """Return empty caches for generation, one per block."""
        return [Memory() for _ in self.blocks]

    def _embed(self, inputs: Tensor, positions: Tensor) -> Tensor:
        x: Tensor = self.inputs(inputs)
        if self.positions is not None:
            x = x + self.positions(positions)
        elif self.config.positions == Positions.SINUSOIDAL:
            scale = math.sqrt(self.config.dimension) if isinstance(self.inputs, Table) else 1.0
            x = x * scale + sinusoids(positions, self.config.dimension).to(x.dtype)
        return x


def _visible(mask: Tensor) -> Tensor:
    """Return the attention mask, [batch, 1, 1, length].

    The first position is always visible, because attention over no position at all would yield NaN.
    """
    first = torch.zeros_like(mask)
    first[:, 0] = True
    return (mask | first)[:, None, None, :]


def _angles(positions: Tensor, dimension: int) -> Tensor:
    """Return the product of each position with each of dimension / 2 frequencies: [length, dimension / 2] float32."""
    exponents = torch.arange(0, dimension, 2, device=positions.device, dtype=torch.float32) / dimension
    return positions.float()[:, None] * WAVELENGTH**-exponents


def sinusoids(positions: Tensor, dimension: int) -> Tensor:
    """Return the sinusoidal encoding of positions ([length]): [length, dimension] float32."""
    angles = _angles(positions, dimension)
    return torch.stack((angles.sin(), angles.cos()), 2).flatten(1)[:, :dimension]


def rotations(positions: Tensor, features: int) -> Tensor:
    """Return cosine and sine of the rotation angle of each pair of features: [2, length, features / 2] float32."""
    angles = _angles(positions, features)
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate pairs of features, so that the product of a query and a key depends on the distance of their positions.

    Args:
        x: Queries or keys, [batch, heads, length, features].
        rotation: Result of `rotations`.
    """
    cosine, sine = rotation.to(x.dtype)
    first, second = x.chunk(2, 3)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), 3)
