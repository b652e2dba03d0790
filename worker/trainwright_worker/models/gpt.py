"""GPT-2's architecture in the published sizes of GPT-2 and GPT-3.

GPT-3 has the same blocks. It uses locally banded attention in every other block, but the details are not published, so
attention is dense here, as in other reimplementations. The paper's dimension, number of heads and size of a head are
inconsistent for 1.3B and 13B. This module changes the number of heads of 1.3B and the dimension of 13B.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from trainwright.api.spec.architecture import GptArgs, GptSize, Positions
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.models.files import CONFIG
from trainwright_worker.models.transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class Size:
    """A published size: number of blocks, number of heads, hidden dimension, maximum sequence length."""

    layers: int
    heads: int
    dimension: int
    context: int | None

    def __str__(self) -> str:
        return f"{self.layers} layers, {self.heads} heads, {self.dimension} wide, {self.context} positions"


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

_GPT2_NAMES: Final = (
    (r"^wte\.", "inputs."),
    (r"^wpe\.", "positions."),
    (r"^ln_f\.", "norm."),
    (r"^h\.", "blocks."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.attn\.c_attn\.", ".attention.qkv."),
    (r"\.attn\.c_proj\.", ".attention.out."),
    (r"\.mlp\.c_fc\.", ".feed_forward.up."),
    (r"\.mlp\.c_proj\.", ".feed_forward.down."),
)


def build_gpt(args: GptArgs, facts: Facts, dropout: float, pretrained: dict[str, Any] | None = None) -> Transformer:
    """Return a GPT with randomly initialized weights.

    Args:
        args: The arguments of the model.
        facts: Input shape, number of outputs and vocabulary size of the data; the inputs must be token ids.
        dropout: Dropout probability.
        pretrained: The config.json of the pretrained folder, if there is one; it then determines the size.

    Raises:
        UserError: The arguments contradict each other, or do not fit the data or the pretrained weights.
    """
    size = SIZES[args.size] if pretrained is None else _stored_size(args, pretrained)
    dimension = args.dimension or size.dimension
    context = args.context or size.context or facts.shape[0]
    vocabulary = _vocabulary(args, facts, pretrained)
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
    rows = math.ceil(vocabulary / args.vocabulary_multiple) * args.vocabulary_multiple
    return Transformer(config, vocabulary=facts.vocabulary or facts.outputs, rows=rows)


def _stored_size(args: GptArgs, pretrained: dict[str, Any]) -> Size:
    if pretrained.get("model_type") != "gpt2" or pretrained.get("activation_function", "gelu_new") != "gelu_new":
        raise UserError(
            f"spec.model.pretrained: {CONFIG} describes a model of type {pretrained.get('model_type')} with activation "
            f"{pretrained.get('activation_function')}, not GPT-2",
            "use hf:TYPE for other models of transformers",
        )
    try:
        stored = Size(*(int(pretrained[name]) for name in ("n_layer", "n_head", "n_embd", "n_positions")))
    except KeyError as error:
        raise UserError(f"spec.model.pretrained: {CONFIG} has no {error.args[0]}") from error
    if args.size is not None and SIZES[args.size] != stored:
        raise UserError(
            f"spec.model.args.size: {args.size} is {SIZES[args.size]}, but the pretrained model is {stored}",
            "remove it: the pretrained model determines the size",
        )
    return stored


def _vocabulary(args: GptArgs, facts: Facts, pretrained: dict[str, Any] | None) -> int:
    tokens = facts.vocabulary or facts.outputs
    if args.vocabulary is not None and args.vocabulary < tokens:
        raise UserError(
            f"spec.model.args.vocabulary: {args.vocabulary}, but the tokenizer has {tokens} tokens",
            "remove it: the default is the size of the tokenizer's vocabulary",
        )
    stored = (pretrained or {}).get("vocab_size")
    if stored is not None and stored < tokens:
        raise UserError(
            f"spec.model.pretrained: the model's vocabulary has {stored} tokens, but the tokenizer's has {tokens}",
            "set spec.dataset.tokenizer.path to the folder of the pretrained model",
        )
    return args.vocabulary or stored or tokens


def check_transformer(config: TransformerConfig, facts: Facts) -> None:
    """Check that the dimensions of a Transformer are consistent with each other and with the data.

    Raises:
        UserError: They are not; names the argument.
    """
    if config.dimension % config.heads:
        raise UserError(
            f"spec.model.args.heads: {config.heads} heads do not evenly divide dimension {config.dimension}",
            "choose a dimension that is a multiple of heads",
        )
    if config.positions == Positions.ROTARY and config.dimension // config.heads % 2:
        raise UserError(
            f"spec.model.args.heads: rotary positions need an even number of features per head, but {config.dimension} / "
            f"{config.heads} is odd"
        )
    if facts.shape[0] > config.context:
        raise UserError(
            f"spec.model.args.context: the model takes {config.context} positions, but the data has sequences of "
            f"length {facts.shape[0]}",
            "lower spec.dataset.tokenizer.maxLength, or raise spec.model.args.context",
        )


def is_gpt2(state: Mapping[str, Tensor]) -> bool:
    """Return whether the weights have the names of Hugging Face's GPT-2."""
    return any(name.endswith("wte.weight") for name in state)


def from_gpt2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a Hugging Face GPT-2 to our names and transpose the linear layers to (out, in)."""
    result: dict[str, Tensor] = {}
    for full, value in state.items():
        name = full.removeprefix("transformer.")
        if name == "lm_head.weight" or name.endswith((".attn.bias", ".attn.masked_bias")):
            continue  # A second name of the embedding, and attention masks that old checkpoints store.
        for theirs, ours in _GPT2_NAMES:
            name = re.sub(theirs, ours, name)
        turned = name.startswith("blocks.") and name.endswith("weight") and ".norm" not in name
        result[name] = value.T.contiguous() if turned else value
    return result
