"""Builds the model that a spec describes: a built-in one, layers, one of another library, or a class of the user's."""

import importlib
from contextlib import suppress

from torch import nn

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.architecture import GptArgs, ModelName, Positions, RecurrentArgs, TransformerArgs
from trainwright.api.spec.model import Library, ModelSpec
from trainwright.api.spec.source import Target
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.models.files import read_config
from trainwright_worker.models.gpt import build_gpt, check_transformer
from trainwright_worker.models.head import head_names
from trainwright_worker.models.huggingface import build_huggingface, import_transformers
from trainwright_worker.models.layers import IMAGE_DIMENSIONS, SEQUENCE_DIMENSIONS, build_layers
from trainwright_worker.models.lora import add_lora
from trainwright_worker.models.own import build_own
from trainwright_worker.models.recurrent import RecurrentModel
from trainwright_worker.models.transformer import Transformer, TransformerConfig
from trainwright_worker.models.vision import build_timm, build_torchvision


def build(spec: TrainingJobSpec, facts: Facts, root: str = "") -> nn.Module:
    """Return the model with randomly initialized weights (from torch's global generator), on torch's default device.

    Under `torch.device("meta")` no memory is allocated, whatever the size of the model. Pretrained weights are loaded
    in a separate step (`pretrained.load_pretrained`), because a resumed job takes its weights from a checkpoint
    instead.

    Args:
        spec: The job.
        facts: Input shape, number of outputs and vocabulary size of the data.
        root: Folder that relative paths are resolved against, to find the configuration of pretrained weights.

    Raises:
        UserError: The model does not fit the data or the task, or its arguments contradict each other; names the field.
    """
    model = _build(spec, facts, root)
    if spec.model.lora is not None:
        # A language model keeps its pretrained head, because its outputs are the tokens of its own vocabulary.
        head = frozenset() if spec.traits.target == Target.TOKENS else head_names(model, facts.outputs)
        add_lora(model, spec.model.lora, head)
    return model


def draws_layer_by_layer(spec: ModelSpec) -> bool:
    """Return whether every layer initializes its own weights, when it is constructed and in the order of `modules()`.

    Such a model can be built on the meta device, and `distributed.parallel.draw` can initialize it later, one layer at
    a time, with exactly the same weights.
    """
    return spec.foreign is None and spec.class_ is None and spec.pretrained is None and spec.lora is None


def preload(spec: ModelSpec) -> None:
    """Import the libraries of the model in the agent, so that forked ranks inherit them and restarts are fast."""
    match spec.foreign:
        case (Library.HF, kind):
            transformers = import_transformers()
            importlib.import_module("transformers.models.auto.modeling_auto")
            with suppress(ImportError):  # `build` reports an unknown name.
                importlib.import_module(f"{transformers.__name__}.models.{kind.replace('-', '_')}")
        case (library, _):
            importlib.import_module(library)


def _build(spec: TrainingJobSpec, facts: Facts, root: str) -> nn.Module:
    if spec.model.class_ is not None:
        return build_own(spec.model.class_, spec, facts)
    match spec.model.foreign:
        case (Library.TORCHVISION, name):
            return build_torchvision(name, spec, facts)
        case (Library.TIMM, name):
            return build_timm(name, spec, facts)
        case (Library.HF, name):
            return build_huggingface(name, spec, facts, root)
    match spec.model.resolved_args():
        case RecurrentArgs() as args:
            return _build_recurrent(spec, args, facts)
        case TransformerArgs() as args:
            return _build_transformer(spec, args, facts)
        case GptArgs() as args:
            return _build_gpt(spec, args, facts, root)
        case _:
            return build_layers(spec, facts)


def _build_recurrent(spec: TrainingJobSpec, args: RecurrentArgs, facts: Facts) -> nn.Module:
    _need_sequences(spec, facts)
    if args.bidirectional and spec.traits.causal:
        raise UserError(
            f"spec.model.args.bidirectional: true, but task {spec.task} predicts positions that the model would see",
            "remove it",
        )
    kind = ModelName(str(spec.model.name))
    return RecurrentModel(kind, args, facts, _dropout(spec, args.dropout), pooled=not spec.traits.per_position)


def _build_transformer(spec: TrainingJobSpec, args: TransformerArgs, facts: Facts) -> nn.Module:
    _need_sequences(spec, facts)
    config = TransformerConfig(
        dimension=args.dimension,
        heads=args.heads,
        layers=args.layers,
        feed_forward=args.feed_forward or 4 * args.dimension,
        dropout=_dropout(spec, args.dropout),
        positions=Positions(args.positions),
        context=facts.shape[0],
        causal=spec.traits.causal,
        outputs=None if spec.traits.target == Target.TOKENS else facts.outputs,
        pooled=not spec.traits.per_position,
    )
    check_transformer(config, facts)
    if facts.vocabulary is not None:
        return Transformer(config, vocabulary=facts.vocabulary)
    return Transformer(config, features=facts.shape[1])


def _build_gpt(spec: TrainingJobSpec, args: GptArgs, facts: Facts, root: str) -> nn.Module:
    _need_sequences(spec, facts)
    if spec.traits.target != Target.TOKENS:
        raise UserError(
            f"spec.model.name: gpt is a language model, but spec.task is {spec.task}",
            "set task: language-modeling, or use transformer or hf:gpt2, which classify too",
        )
    path = spec.model.pretrained
    config = None if path is None else read_config(path, root, "spec.model.pretrained")
    return build_gpt(args, facts, _dropout(spec, args.dropout), config)


def _dropout(spec: TrainingJobSpec, own: float | None) -> float:
    return spec.regularization.dropout if own is None else own


def _need_sequences(spec: TrainingJobSpec, facts: Facts) -> None:
    if facts.vocabulary is None and len(facts.shape) != SEQUENCE_DIMENSIONS:
        has = "x".join(map(str, facts.shape))
        what = f"images of {has}" if len(facts.shape) == IMAGE_DIMENSIONS else f"{has} features per sample"
        raise UserError(
            f"spec.model.name: {spec.model.name} reads text or frames, but the data has {what}",
            "use cnn, torchvision:NAME or timm:NAME for images, and mlp for features",
        )
    if spec.traits.target == Target.TOKENS and facts.vocabulary is None:
        raise UserError("spec.task: language-modeling needs text, but the data are frames", "use task: transcription")
