"""A pre-norm Transformer: an encoder, or a causal decoder that predicts the next token. GPT-2 is one of its forms."""

import math
from dataclasses import dataclass
from typing import Final, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from trainwright.api.spec.architecture import Positions
from trainwright_worker.models.pooling import mean_of_real

DEVIATION: Final = 0.02
"""Standard deviation of first weights, as in GPT-2 and BERT."""
WAVELENGTH: Final = 10_000.0
"""Longest wavelength of positions, over two pi."""


@dataclass(frozen=True)
class TransformerConfig:
    """The form of a Transformer.

    Attributes:
        dimension: Length of the vector of each position.
        heads: Attention heads; they divide the dimension.
        layers: Number of blocks.
        feed_forward: Width inside the feed-forward part.
        dropout: Dropout of embeddings, attention and of what each block adds.
        positions: How it knows the order of its inputs.
        context: Longest sequence.
        causal: Whether a position sees only itself and those before it.
        outputs: Classes, targets or transcribed characters; None to predict tokens with the weights of the embedding.
        pooled: Whether a sequence gets one vector of outputs, rather than every position.
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
    """Keys and values of the positions that one block has read, for generation."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    @property
    def length(self) -> int:
        """Positions read so far."""
        return 0 if self.keys is None else self.keys.shape[2]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add positions ([batch, heads, length, features]) and return all of them."""
        if self.keys is not None and self.values is not None:
            keys, values = torch.cat((self.keys, keys), 2), torch.cat((self.values, values), 2)
        self.keys, self.values = keys, values
        return keys, values


class Projection(nn.Linear):
    """A linear layer whose first weights are normal and whose first bias is zero."""

    def __init__(self, inputs: int, outputs: int, deviation: float = DEVIATION) -> None:
        self.deviation = deviation  # before the weights are drawn
        super().__init__(inputs, outputs)

    def reset_parameters(self) -> None:
        """Draw first weights."""
        nn.init.normal_(self.weight, std=self.deviation)
        nn.init.zeros_(self.bias)


class Table(nn.Embedding):
    """An embedding whose first weights have the given deviation."""

    def __init__(self, entries: int, dimension: int, deviation: float = DEVIATION) -> None:
        self.deviation = deviation  # before the weights are drawn
        super().__init__(entries, dimension)

    def reset_parameters(self) -> None:
        """Draw first weights."""
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
        # A single new position may see everything that was read before it.
        causal = self.causal and (memory is None or keys.shape[2] == length)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(queries, keys, values, mask, dropout, is_causal=causal)
        mixed = mixed.transpose(1, 2).reshape(batch, length, dimension)
        return F.dropout(self.out(mixed), self.dropout, self.training)


class FeedForward(nn.Module):
    """Two linear layers around a GELU, applied to every position alike."""

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
    """Attention and a feed-forward part, each normalized before and added to what came in."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        # So the sum that all blocks add to starts out as wide as one of its terms.
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
            x: The positions.
            mask: [batch, 1, 1, length], true where a position may be looked at; None if all may.
            rotation: What `rotations` returns for these positions, if positions are rotary.
            memory: Positions read before these, if any; it then includes these.
        """
        x = x + self.attention(self.norm1(x), mask, rotation, memory)
        outputs: Tensor = x + self.feed_forward(self.norm2(x))
        return outputs


class Transformer(nn.Module):
    """An encoder or decoder over token ids or frames.

    Attributes:
        vocabulary: Number of different tokens, of which generation draws; its embedding may be larger.
        context: Longest sequence.
        blocks: What shards and recomputes as a unit.
    """

    def __init__(
        self, config: TransformerConfig, *, vocabulary: int | None = None, features: int = 0, rows: int | None = None
    ) -> None:
        """Draw the weights.

        Args:
            config: Its form.
            vocabulary: Number of different tokens; None if inputs are frames.
            features: Features of a frame.
            rows: Rows of the embedding, if there are more than tokens; the others stand for nothing.
        """
        super().__init__()
        self.config, self.context, self.vocabulary = config, config.context, vocabulary or 0
        sinusoidal = config.positions == Positions.SINUSOIDAL
        self.inputs: Table | Projection
        if vocabulary is None:
            self.inputs = Projection(features, config.dimension, features**-0.5)
        else:
            # Beside waves of amplitude 1, embeddings are scaled up in `_embed`, as in "Attention is all you need".
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
            mask: [batch, length], true where the inputs are real; None if all are. A decoder needs none, since its
                padding comes after all that is real.
            cache: What was read before the inputs, which then are a single position; it then includes them.

        Returns:
            [batch, outputs]; [batch, length, outputs] for transcription; [batch, length, rows of the embedding] for
            language modelling, only of the last position ([batch, 1, rows]) with a cache.
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
        """Return the memory of a model that has read nothing."""
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
    """Return which positions may be looked at: [batch, 1, 1, length]; the first always, attention needs something."""
    first = torch.zeros_like(mask)
    first[:, 0] = True
    return (mask | first)[:, None, None, :]


def _angles(positions: Tensor, dimension: int) -> Tensor:
    """Return position times frequency for dimension / 2 frequencies: [length, dimension / 2] float32."""
    exponents = torch.arange(0, dimension, 2, device=positions.device, dtype=torch.float32) / dimension
    return positions.float()[:, None] * WAVELENGTH**-exponents


def sinusoids(positions: Tensor, dimension: int) -> Tensor:
    """Return waves of falling frequency at the positions ([length]): [length, dimension] float32."""
    angles = _angles(positions, dimension)
    return torch.stack((angles.sin(), angles.cos()), 2).flatten(1)[:, :dimension]


def rotations(positions: Tensor, features: int) -> Tensor:
    """Return cosine and sine of each pair of features' angle: [2, length, features / 2] float32."""
    angles = _angles(positions, features)
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn pairs of features by their angle, so that a product of two depends on the distance between positions.

    Args:
        x: Queries or keys, [batch, heads, length, features].
        rotation: What `rotations` returns.
    """
    cosine, sine = rotation.to(x.dtype)
    first, second = x.chunk(2, 3)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), 3)
