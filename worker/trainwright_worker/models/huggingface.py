"""Models of Hugging Face's transformers, built from their configuration.

Nothing is downloaded, and no code outside the installed library runs.
"""

import difflib
import importlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.source import Modality, Target
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.models.files import read_config
from trainwright_worker.models.layers import IMAGE_DIMENSIONS
from trainwright_worker.models.vision import check_images, unknown_name

_FIELD: Final = "spec.model.pretrained"
_OURS: Final = frozenset(
    {
        *("num_labels", "id2label", "label2id", "problem_type", "pad_token_id", "model_type", "architectures"),
        *("auto_map", "dtype", "torch_dtype", "use_cache", "quantization_config", "attn_implementation"),
    }
)
"""Fields of a configuration that other fields of the spec determine, or that would load custom code or change the
arithmetic.
"""
_PROBED: Final = 4
"""Number of tokens in the test for whether a model looks ahead."""
_ROUNDING: Final = 1e-5
"""Differences below this fraction of the largest output are attributed to rounding."""
_SHORT: Final = 7
"""Length of the text in the test for whether a model reads padding. Odd, because some models pool pairs of tokens."""
_BLURRED: Final = 1e-2
"""Difference that padding may make, as a fraction of the largest output: some models convolve across the end."""


class HuggingFaceModel(nn.Module):
    """A model of transformers with the `forward` signature of the built-in models.

    Attributes:
        vocabulary: Size of the tokenizer's vocabulary; generation ignores outputs beyond it.
        context: Maximum sequence length; None if it is unlimited.
    """

    def __init__(
        self, network: Any, input_name: str, *, causal: bool, context: int | None, vocabulary: int | None
    ) -> None:
        """Wrap a model of transformers.

        Args:
            network: The model of transformers.
            input_name: Name of its input argument: input_ids or pixel_values.
            causal: Whether it is a causal language model.
            context: Maximum sequence length; None if it is unlimited.
            vocabulary: Size of the tokenizer's vocabulary; None for images.
        """
        super().__init__()
        self.network, self.input_name, self.causal = network, input_name, causal
        self.context, self.vocabulary = context, vocabulary

    @property
    def head(self) -> frozenset[str]:
        """Names of the weights that are not part of the pretrained base model."""
        body = f"network.{self.network.base_model_prefix}."
        return frozenset(name for name in self.state_dict() if not name.startswith(body) or ".pooler." in name)

    def forward(self, inputs: Tensor, mask: Tensor | None = None, cache: Any = None) -> Tensor:
        """Return logits.

        Args:
            inputs: Token ids [batch, length], or images [batch, channels, height, width].
            mask: bool [batch, length], true for real positions, false for padding; None if there is no padding.
            cache: Cache of the positions before the inputs, from `new_cache`; updated to include the inputs.

        Returns:
            [batch, outputs]; [batch, length, vocabulary] for language modelling, or [batch, 1, vocabulary] (the last
            position) with a cache.
        """
        arguments: dict[str, Any] = {self.input_name: inputs}
        if mask is not None:
            arguments["attention_mask"] = mask.long()
        if self.causal:
            arguments |= {"use_cache": cache is not None, "past_key_values": cache}
        logits: Tensor = self.network(**arguments).logits
        return logits if cache is None else logits[:, -1:]

    def new_cache(self) -> Any:
        """Return an empty cache for generation."""
        return importlib.import_module("transformers").DynamicCache()


def import_transformers() -> Any:
    """Return the transformers library in offline mode, which must be set before the import."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    return importlib.import_module("transformers")


def build_huggingface(kind: str, spec: TrainingJobSpec, facts: Facts, root: str) -> HuggingFaceModel:
    """Return a model of transformers with randomly initialized weights.

    Args:
        kind: The model type, as in config.json: bert, distilbert, roberta, gpt2.
        spec: The job. The configuration comes from its pretrained folder, if it names one, updated with its args.
        facts: Input shape, number of outputs and vocabulary size of the data.
        root: Folder that relative paths are resolved against.

    Raises:
        UserError: There is no such type, it does not support the task, or it does not fit the data.
    """
    transformers = import_transformers()
    images = len(facts.shape) == IMAGE_DIMENSIONS
    automatic = _class_for(spec, facts, images=images)
    config = _configuration(kind, spec, facts, root)
    try:
        # The weights are fp32, whatever the checkpoint stores; spec.training.precision sets the type of the
        # computations.
        network = getattr(transformers, automatic).from_config(config, dtype=torch.float32)
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        reason = str(error).splitlines()[0]
        if reason.startswith("Unrecognized configuration class"):
            reason = f"transformers has no such model for {'images' if images else 'text'}"
        raise UserError(f"spec.model: hf:{kind} does not support task {spec.task}: {reason}") from error
    network.train()
    model = HuggingFaceModel(
        network,
        "pixel_values" if images else "input_ids",
        causal=spec.traits.causal,
        context=_context(network),
        vocabulary=facts.vocabulary,
    )
    if images:
        check_images(model, spec, facts)
    else:
        _check_length(model, spec, facts)
    if model.causal and _looks_ahead(model, facts):
        raise UserError(
            f"spec.model.name: {spec.model.name} sees the tokens that it must predict",
            "use a decoder such as hf:gpt2, or configure the model as a decoder in spec.model.args if it can be one "
            "(is_decoder: true, causal: true of xlm, attn_type: uni of xlnet)",
        )
    if facts.vocabulary is not None and not model.causal and _reads_padding(model, facts):
        raise UserError(
            f"spec.model.name: {spec.model.name} reads the padding after short texts, so its outputs depend on the "
            "other texts of a batch",
            "use a model that masks padding, such as hf:bert, hf:distilbert or hf:roberta",
        )
    return model


def _looks_ahead(model: HuggingFaceModel, facts: Facts) -> bool:
    """Return whether changing the last of a few tokens changes the outputs of the tokens before it.

    A model on the meta device has no values to compare, so it passes; training always builds this model with values,
    even if it is sharded afterwards. A model that fails on these inputs passes too; its first training step reports the
    error.
    """
    tokens = _probed_tokens(model, facts)
    if not tokens:
        return False
    text = torch.full((1, min(facts.shape[0], _PROBED)), tokens[0])
    other = text.clone()
    other[0, -1] = tokens[-1]
    return _differ(model, lambda: model(text)[:, :-1], lambda: model(other)[:, :-1], _ROUNDING)


def _reads_padding(model: HuggingFaceModel, facts: Facts) -> bool:
    """Return whether padding after a short text changes its outputs, although the mask excludes it.

    As in `_looks_ahead`, a model on the meta device passes.
    """
    tokens = _probed_tokens(model, facts)
    if not tokens or facts.shape[0] <= _SHORT:
        return False
    text = torch.tensor([[tokens[index % len(tokens)] for index in range(_SHORT)]])
    fill = torch.full((1, min(facts.shape[0], 2 * _SHORT) - _SHORT), facts.padding or 0)
    padded, mask = torch.cat([text, fill], 1), torch.cat([torch.ones_like(text), torch.zeros_like(fill)], 1).bool()
    return _differ(model, lambda: model(text, torch.ones_like(text).bool()), lambda: model(padded, mask), _BLURRED)


def _probed_tokens(model: HuggingFaceModel, facts: Facts) -> list[int]:
    """Return a few tokens other than padding; none if the model is on the meta device."""
    if any(weight.is_meta for weight in model.parameters()):
        return []
    padding = getattr(model.network.config, "pad_token_id", None)
    return [token for token in range(min(facts.vocabulary or 0, _PROBED)) if token != padding]


def _differ(model: HuggingFaceModel, one: Callable[[], Tensor], other: Callable[[], Tensor], least: float) -> bool:
    """Return whether two outputs differ by more than a fraction of the largest; false if the model fails."""
    found = False
    model.eval()
    # The random numbers drawn after this check must be the same as without it.
    with suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):
        before = one()
        found = bool(((other() - before).abs() > least * before.abs().max()).any())
    model.train()
    return found


def _check_length(model: HuggingFaceModel, spec: TrainingJobSpec, facts: Facts) -> None:
    if model.context is not None and facts.shape[0] > model.context:
        raise UserError(
            f"spec.model.name: {spec.model.name} takes {model.context} positions, but the data has sequences of length "
            f"{facts.shape[0]}",
            "lower spec.dataset.tokenizer.maxLength"
            + ("" if spec.model.pretrained else ", or raise max_position_embeddings in spec.model.args"),
        )


def default_vocabulary(kind: str) -> int | None:
    """Return the default vocabulary size of a model type; None if the type is unknown or has no vocabulary."""
    import_transformers()
    mapping = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    known = getattr(mapping[kind](), "vocab_size", None) if kind in mapping else None
    return known if isinstance(known, int) else None


def read_state(model: HuggingFaceModel, folder: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights of a pretrained folder under the names of `model`, and the names of unused weights.

    Raises:
        UserError: The folder holds no readable weights.
    """
    transformers = import_transformers()
    transformers.utils.logging.set_verbosity_error()  # The caller logs the unused weights.
    transformers.utils.logging.disable_progress_bar()
    try:
        kind: Any = type(model.network)
        network, info = kind.from_pretrained(
            folder,
            config=model.network.config,
            dtype=torch.float32,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, KeyError) as error:
        raise UserError(f"{_FIELD}: {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
    for name, theirs, ours in sorted(info["mismatched_keys"]):
        if f"network.{name}" not in model.head:
            raise UserError(
                f"{_FIELD}: {name} has shape {tuple(theirs)}, but the model needs {tuple(ours)}",
                "remove the spec.model.args that change the pretrained model's form",
            )
    absent = info["missing_keys"] | {name for name, *_ in info["mismatched_keys"]}
    state = {f"network.{name}": value for name, value in network.state_dict().items() if name not in absent}
    return state, sorted(info["unexpected_keys"])


def _class_for(spec: TrainingJobSpec, facts: Facts, *, images: bool) -> str:
    if spec.regularization.dropout:
        raise UserError(
            f"spec.regularization.dropout: {spec.model.name} has its own dropout settings",
            "set them in spec.model.args, for example hidden_dropout_prob",
        )
    modality = Modality.IMAGES if images else Modality.TEXTS
    automatic = spec.traits.transformers.get(modality)
    if automatic is None or (not images and facts.vocabulary is None):
        raise UserError(
            f"spec.model.name: {spec.model.name} reads text or images, but the data has inputs of "
            f"{'x'.join(map(str, facts.shape))}",
            "use rnn, lstm, gru or transformer for frames, and mlp for features",
        )
    return automatic


def _configuration(kind: str, spec: TrainingJobSpec, facts: Facts, root: str) -> Any:
    mapping = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    if kind not in mapping:
        raise unknown_name(kind, mapping.keys(), "hf")
    path, known = spec.model.pretrained, mapping[kind]().to_dict()
    raw = None if path is None else read_config(path, root, _FIELD)
    if raw is not None and raw.get("model_type") != kind:
        raise UserError(f"spec.model.name: hf:{kind}, but {path} holds a model of type {raw.get('model_type')}")
    args = dict(spec.model.args or {})
    for name in args:
        if name in _OURS or name.startswith("_"):
            raise UserError(f"spec.model.args.{name}: follows from the rest of the spec", "remove it")
        if name not in known and name not in mapping[kind].attribute_map:
            raise _unknown_argument(name, kind, known)
    stored = {name: value for name, value in (raw or {}).items() if not name.startswith("_") and name not in _OURS}
    if facts.vocabulary is not None:
        _check_tokens(facts, raw, args)
    try:
        changes = {
            **(_from_data(facts, known) if raw is None else {}),
            # Turns an encoder into a decoder. The pretrained folder may carry the value of another task.
            **({"is_decoder": spec.traits.causal} if "is_decoder" in known else {}),
            **args,
            **_from_task(spec.traits.target, facts, raw),
        }
        return mapping[kind].from_dict({**stored, **changes})
    except Exception as error:
        # Every configuration class raises its own errors, always about the arguments.
        raise UserError(f"spec.model.args: hf:{kind} rejects them: {error}") from error


def _unknown_argument(name: str, kind: str, known: Iterable[str]) -> UserError:
    near = difflib.get_close_matches(name, list(known), n=3)
    return UserError(
        f"spec.model.args.{name}: the configuration of hf:{kind} has no such field",
        f"did you mean {', '.join(near)}?" if near else None,
    )


def _check_tokens(facts: Facts, raw: dict[str, Any] | None, args: dict[str, Any]) -> None:
    """Check that the model's vocabulary covers the tokenizer's, and that both use the same padding token.

    Raises:
        UserError: They do not.
    """
    vocabulary = args.get("vocab_size", (raw or {}).get("vocab_size"))
    if isinstance(vocabulary, int) and facts.vocabulary is not None and vocabulary < facts.vocabulary:
        where = "spec.model.args.vocab_size" if "vocab_size" in args else _FIELD
        raise UserError(
            f"{where}: the model's vocabulary has {vocabulary} tokens, but the tokenizer's has {facts.vocabulary}",
            "set spec.dataset.tokenizer.path to the folder of the pretrained model",
        )
    padding = (raw or {}).get("pad_token_id")
    if padding is not None and facts.padding is not None and padding != facts.padding:
        raise UserError(
            f"{_FIELD}: the model was trained with the padding token {padding}, but the tokenizer's is {facts.padding}",
            "set spec.dataset.tokenizer.path to the folder of the pretrained model",
        )


def _from_data(facts: Facts, known: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the configuration that the data determines, for a model without pretrained configuration."""
    if facts.vocabulary is not None:
        # The default ids of special tokens belong to another tokenizer and may exceed the vocabulary.
        special: dict[str, int | None] = {
            name: None for name, value in known.items() if name.endswith("_token_id") and isinstance(value, int)
        }
        if "decoder_start_token_id" in special:
            special["decoder_start_token_id"] = facts.padding  # Any token without another meaning will do.
        return {**special, "vocab_size": facts.vocabulary}
    found = {"num_channels": facts.shape[0], "image_size": facts.shape[1]}
    return {name: value for name, value in found.items() if name in known}


def _from_task(target: Target, facts: Facts, raw: dict[str, Any] | None) -> dict[str, Any]:
    stored = (raw or {}).get("pad_token_id")
    padding = facts.padding if stored is None else stored
    return {
        "use_cache": False,
        **({} if target == Target.TOKENS else {"num_labels": facts.outputs}),
        **({} if padding is None else {"pad_token_id": padding}),
    }


def _context(network: nn.Module) -> int | None:
    """Return the maximum sequence length; embeddings of learned positions may reserve some for padding."""
    limits = []
    limit = getattr(network.config, "max_position_embeddings", None)
    if isinstance(limit, int) and limit > 0:
        limits.append(limit)
    for name, part in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None:
            limits.append(part.num_embeddings - part.padding_idx - 1)
    return min(limits, default=None)
