"""Distillation: a trained model, the teacher, shows not only which answer is right but how likely it holds the others."""

import json
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everyone uses

from trainwright.api.base import Model
from trainwright.api.names import SUMMARY_FILE
from trainwright.api.spec import DistillationSpec, ModelSpec, RegularizationSpec, TrainingJobSpec
from trainwright.api.spec.paths import is_uri
from trainwright.api.spec.training import Precision
from trainwright_worker.batch import IGNORED, Batch, run_model
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.data.measured import compare as compare_data
from trainwright_worker.errors import UserError, WorkerError
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build
from trainwright_worker.models.files import local_path, read_summary
from trainwright_worker.models.pretrained import read_pretrained
from trainwright_worker.tasks.losses import Loss

FIELD: Final = "spec.distillation.weights"

_Kind = TypeVar("_Kind", bound=Model)
_NOTHING: Final = RegularizationSpec()


def make_distilled(
    spec: TrainingJobSpec, dataset: Dataset, facts: Facts, root: str, device: torch.device, loss: Loss
) -> tuple[Loss, str]:
    """Return the loss that the teacher has a part in, and what a person should know of it, if anything.

    Args:
        spec: The job, which has a teacher.
        dataset: The data.
        facts: What the model knows of it.
        root: Folder at which relative paths start.
        device: Where the model is trained.
        loss: The loss of the right answers.

    Raises:
        UserError: There is no such teacher, or it was taught something else.
    """
    if spec.distillation is None:
        return loss, ""
    place = spec.distillation.weights
    doubt = compare_data(dataset.measured, read_summary(local_path(place, root, FIELD)).get("data"), place, FIELD)
    teacher = load_teacher(spec, spec.distillation, facts, root).to(device)
    half = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}.get(spec.training.precision)
    alpha, temperature = spec.distillation.alpha, spec.distillation.temperature

    def distilled(outputs: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, half, enabled=half is not None):
            shown = run_model(teacher, batch)
        lesson = compare(outputs, shown.float(), batch, temperature)
        return alpha * lesson + (1 - alpha) * loss.total(outputs, batch) if alpha < 1 else lesson

    return Loss(distilled, loss.count), doubt


def compare(outputs: Tensor, shown: Tensor, batch: Batch, temperature: float) -> Tensor:
    """Return temperature^2 x the Kullback-Leibler divergence of a student's outputs from its teacher's, summed over targets.

    The square keeps gradients as large as those of the right answers, whatever the temperature (Hinton et al., 2015,
    arXiv:1503.02531).

    Args:
        outputs: The student's logits, [..., outputs].
        shown: The teacher's; either may have more outputs behind those of the vocabulary, which stand for nothing.
        batch: What both have seen; what is ignored in its targets is ignored here.
        temperature: What both are divided by.
    """
    both = min(outputs.shape[-1], shown.shape[-1])
    known, learnt = ((logits[..., :both] / temperature).log_softmax(-1) for logits in (shown, outputs))
    divergence = F.kl_div(learnt, known, reduction="none", log_target=True).sum(-1)
    counted = batch.target != IGNORED
    return temperature**2 * (divergence * counted).sum()


def load_teacher(spec: TrainingJobSpec, teacher: DistillationSpec, facts: Facts, root: str) -> nn.Module:
    """Return the teacher with its weights, on the host, ready to be asked and never to change.

    Raises:
        UserError: There is no such teacher, or it was taught something else.
    """
    twin = spec_of_teacher(spec, read_model(teacher, root), _read_regularization(teacher.weights, root))
    # Drawing its first weights must not change what the student draws.
    with torch.random.fork_rng(devices=[]):
        built = build_teacher(twin, facts, root)
    state, _ = read_pretrained(built, teacher.weights, facts, root, FIELD)
    missing = sorted(name for name in dict(built.named_parameters()) if name not in state)
    if missing:
        raise UserError(
            f"{FIELD}: {teacher.weights} has no weights for {missing[0]}: a teacher must know the outputs of this job",
            "train it on the same classes or tokens first",
        )
    built.load_state_dict(state, strict=False)
    return built.eval().requires_grad_(requires_grad=False)


def build_teacher(spec: TrainingJobSpec, facts: Facts, root: str) -> nn.Module:
    """Return the model of `spec_of_teacher` as `build` does.

    Raises:
        UserError: It cannot be built; fields of its spec are not those of this job, and the message says so.
    """
    try:
        return build(spec, facts, root)
    except WorkerError as error:
        raise type(error)(f"{FIELD}: the teacher's model cannot be built here: {error.message}", error.hint) from error


def spec_of_teacher(spec: TrainingJobSpec, model: ModelSpec, own: RegularizationSpec = _NOTHING) -> TrainingJobSpec:
    """Return the job as its teacher sees it.

    Args:
        spec: The job, whose regularization is the student's alone.
        model: The teacher's model.
        own: What the teacher was trained with: its dropouts do nothing any more, but weights behind them are named after
            their places.
    """
    return spec.changed(model=model, regularization=own)


def read_model(teacher: DistillationSpec, root: str) -> ModelSpec:
    """Return the teacher's model: as the spec says, or as the results of the job that trained it say.

    Raises:
        UserError: Neither names a model, or its arguments are wrong.
    """
    if teacher.model is None:
        model = _parse(ModelSpec, _model_of(teacher.weights, root), f"{FIELD}: {SUMMARY_FILE}")
        # The weights in results have in them what LoRA has added.
        return model.changed(lora=None)
    return named_model(teacher, pretrained=True)


def named_model(teacher: DistillationSpec, *, pretrained: bool) -> ModelSpec:
    """Return the model that the spec names for the teacher.

    Args:
        teacher: The teacher, whose model has a name.
        pretrained: Whether its weights are at hand, with a configuration beside them.

    Raises:
        UserError: Its arguments are wrong.
    """
    raw: dict[str, Any] = {"name": teacher.model}
    raw |= {"pretrained": teacher.weights} if pretrained else {}
    return _parse(ModelSpec, raw if teacher.args is None else raw | {"args": teacher.args}, "spec.distillation.args")


def _model_of(weights: str, root: str) -> Any:
    """Return the model that the results beside the weights are of, as JSON types."""
    spec = read_summary(local_path(weights, root, FIELD)).get("spec")
    if not isinstance(spec, dict) or "model" not in spec:
        where = weights if is_uri(weights) else str(Path(weights))
        raise UserError(
            f"{FIELD}: {where} holds no {SUMMARY_FILE} to say which model its weights are of",
            "give the results folder of a job, or name the model in spec.distillation.model",
        )
    return spec["model"]


def _read_regularization(weights: str, root: str) -> RegularizationSpec:
    """Return the regularization that the results beside the weights speak of; none if there are no results."""
    spec = read_summary(local_path(weights, root, FIELD)).get("spec")
    raw = spec.get("regularization", {}) if isinstance(spec, dict) else {}
    return _parse(RegularizationSpec, raw, f"{FIELD}: {SUMMARY_FILE}")


def _parse(kind: type[_Kind], raw: Any, field: str) -> _Kind:
    try:
        return kind.model_validate_json(json.dumps(raw), by_alias=True, by_name=False)
    except ValidationError as error:
        raise UserError(f"{field}: {error.errors()[0]['msg']}") from error
