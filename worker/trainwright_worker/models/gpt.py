"""GPT-2's architecture in the published sizes of GPT-2 and GPT-3.

GPT-3 has the same blocks. Its locally banded attention, in every other block, is not published in detail: here attention
is dense, as in all who rebuilt it. Heads of 1.3B and the width of 13B are those that multiply out.
"""

from dataclasses import dataclass
from typing import Final

from trainwright.api.spec.architecture import GptArgs, GptSize, Positions
from trainwright_worker.data.dataset import Facts
from trainwright_worker.errors import UserError
from trainwright_worker.models.transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class Size:
    """A published size: number of blocks, heads, length of a position's vector, longest sequence."""

    layers: int
    heads: int
    dimension: int
    context: int | None


SIZES: Final[dict[GptSize | None, Size]] = {
    None: Size(6, 6, 384, None),
    GptSize.GPT2_124M: Size(12, 12, 768, 1024),
    GptSize.GPT2_355M: Size(24, 16, 1024, 1024),
    GptSize.GPT2_774M: Size(36, 20, 1280, 1024),
    GptSize.GPT2_1_5B: Size(48, 25, 1600, 1024),
    GptSize.GPT3_125M: Size(12, 12, 768, 2048),
    GptSize.GPT3_350M: Size(24, 16, 1024, 2048),
    GptSize.GPT3_760M: Size(24, 16, 1536, 2048),
    GptSize.GPT3_1_3B: Size(24, 16, 2048, 2048),
    GptSize.GPT3_2_7B: Size(32, 32, 2560, 2048),
    GptSize.GPT3_6_7B: Size(32, 32, 4096, 2048),
    GptSize.GPT3_13B: Size(40, 40, 5120, 2048),
    GptSize.GPT3_175B: Size(96, 96, 12288, 2048),
}


def build_gpt(args: GptArgs, facts: Facts, dropout: float) -> Transformer:
    """Return a GPT with freshly drawn weights.

    Args:
        args: Its arguments.
        facts: What the data asks of a model; its inputs are token ids.
        dropout: Dropout.

    Raises:
        UserError: The arguments do not fit each other or the data.
    """
    size = SIZES[args.size]
    dimension = args.dimension or size.dimension
    context = args.context or size.context or facts.shape[0]
    vocabulary = args.vocabulary or facts.vocabulary or facts.outputs
    if vocabulary < facts.outputs:
        raise UserError(
            f"spec.model.args.vocabulary: {vocabulary}, but the tokenizer has {facts.outputs} tokens",
            "remove it: the tokenizer's number is the default",
        )
    config = TransformerConfig(
        dimension=dimension,
        heads=args.heads or size.heads,
        layers=args.layers or size.layers,
        feed_forward=4 * dimension,
        dropout=dropout,
        positions=Positions.LEARNED,
        context=context,
        causal=True,
        outputs=None,
        pooled=False,
        gelu="tanh",
    )
    check_transformer(config, facts)
    return Transformer(config, vocabulary=vocabulary, multiple=args.vocabulary_multiple)


def check_transformer(config: TransformerConfig, facts: Facts) -> None:
    """Check that the numbers of a Transformer fit each other and the data.

    Raises:
        UserError: They do not; names the argument.
    """
    if config.dimension % config.heads:
        raise UserError(
            f"spec.model.args.heads: {config.heads} heads do not divide the dimension, {config.dimension}",
            "choose a dimension that is a multiple of heads",
        )
    if config.positions == Positions.ROTARY and config.dimension // config.heads % 2:
        raise UserError(
            f"spec.model.args.heads: rotary positions need an even number of features per head, but {config.dimension} / "
            f"{config.heads} is odd"
        )
    if facts.shape[0] > config.context:
        raise UserError(
            f"spec.model.args.context: the model sees {config.context} positions, but the data has sequences of "
            f"{facts.shape[0]}",
            "lower spec.dataset.tokenizer.maxLength, or raise spec.model.args.context",
        )
