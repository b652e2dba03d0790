"""Distillation: the model (student) learns from the output probabilities of a trained model (teacher)."""

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
    """Return the distillation loss of the job, and a warning (empty if there is none).

    Args:
        spec: The job, which has a teacher.
        dataset: The data.
        facts: Input shape, number of outputs and vocabulary size of the data.
        root: Folder that relative paths are resolved against.
        device: Device of the model.
        loss: The loss on the targets.

    Raises:
        UserError: There is no such teacher, or it was trained on other data.
    """
    if spec.distillation is None:
        return loss, ""
    place = spec.distillation.weights
    warning = compare_data(dataset.measured, read_summary(local_path(place, root, FIELD)).get("data"), place, FIELD)
    teacher = load_teacher(spec, spec.distillation, facts, root).to(device)
    half = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}.get(spec.training.precision)
    alpha, temperature = spec.distillation.alpha, spec.distillation.temperature

    def distilled(outputs: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad(), torch.autocast(device.type, half, enabled=half is not None):
            taught = run_model(teacher, batch)
        divergence = compare(outputs, taught.float(), batch, temperature)
        return alpha * divergence + (1 - alpha) * loss.total(outputs, batch) if alpha < 1 else divergence

    return Loss(distilled, loss.count), warning


def compare(outputs: Tensor, shown: Tensor, batch: Batch, temperature: float) -> Tensor:
    """Return temperature^2 x the Kullback-Leibler divergence of the student's from the teacher's outputs, summed.

    The square keeps gradients at the scale of those of the targets, whatever the temperature (Hinton et al., 2015,
    arXiv:1503.02531).

    Args:
        outputs: The student's logits, [..., outputs].
        shown: The teacher's logits; if one of them has additional, unused outputs at the end, those are ignored.
        batch: The inputs of both; positions that its targets ignore are ignored here too.
        temperature: Divisor of both logits.
    """
    both = min(outputs.shape[-1], shown.shape[-1])
    known, learnt = ((logits[..., :both] / temperature).log_softmax(-1) for logits in (shown, outputs))
    divergence = F.kl_div(learnt, known, reduction="none", log_target=True).sum(-1)
    counted = batch.target != IGNORED
    return temperature**2 * (divergence * counted).sum()


def load_teacher(spec: TrainingJobSpec, teacher: DistillationSpec, facts: Facts, root: str) -> nn.Module:
    """Return the teacher with its weights, on the host, in evaluation mode and frozen.

    Raises:
        UserError: There is no such teacher, or it was trained on other data.
    """
    twin = spec_of_teacher(spec, read_model(teacher, root), _read_regularization(teacher.weights, root))
    # Initializing the teacher must not change the random numbers of the student.
    with torch.random.fork_rng(devices=[]):
        built = build_teacher(twin, facts, root)
    state, _ = read_pretrained(built, teacher.weights, facts, root, FIELD)
    missing = sorted(name for name in dict(built.named_parameters()) if name not in state)
    if missing:
        raise UserError(
            f"{FIELD}: {teacher.weights} has no weights for {missing[0]}: a teacher must have the outputs of this job",
            "train it on the same classes or tokens first",
        )
    built.load_state_dict(state, strict=False)
    return built.eval().requires_grad_(requires_grad=False)


def build_teacher(spec: TrainingJobSpec, facts: Facts, root: str) -> nn.Module:
    """Return the model of `spec_of_teacher` as `build` does.

    Raises:
        UserError: It cannot be built. The message says that it is about the teacher, since it names fields of the
            teacher's spec.
    """
    try:
        return build(spec, facts, root)
    except WorkerError as error:
        raise type(error)(f"{FIELD}: the teacher's model cannot be built here: {error.message}", error.hint) from error


def spec_of_teacher(spec: TrainingJobSpec, model: ModelSpec, own: RegularizationSpec = _NOTHING) -> TrainingJobSpec:
    """Return the spec of a job with the teacher as its model.

    Args:
        spec: The job, whose regularization applies only to the student.
        model: The teacher's model.
        own: The regularization that the teacher was trained with. Its dropout layers have no effect any more, but they
            determine the names of the weights after them.
    """
    return spec.changed(model=model, regularization=own)


def read_model(teacher: DistillationSpec, root: str) -> ModelSpec:
    """Return the teacher's model: from the spec, or from the results of the job that trained it.

    Raises:
        UserError: Neither names a model, or its arguments are invalid.
    """
    if teacher.model is None:
        model = _parse(ModelSpec, _model_of(teacher.weights, root), f"{FIELD}: {SUMMARY_FILE}")
        # The weights in results already include those of LoRA.
        return model.changed(lora=None)
    return named_model(teacher, pretrained=True)


def named_model(teacher: DistillationSpec, *, pretrained: bool) -> ModelSpec:
    """Return the teacher's model as the spec names it.

    Args:
        teacher: The teacher; its model is set.
        pretrained: Whether its weights are available, with a configuration beside them.

    Raises:
        UserError: Its arguments are invalid.
    """
    raw: dict[str, Any] = {"name": teacher.model}
    raw |= {"pretrained": teacher.weights} if pretrained else {}
    return _parse(ModelSpec, raw if teacher.args is None else raw | {"args": teacher.args}, "spec.distillation.args")


def _model_of(weights: str, root: str) -> Any:
    """Return the model in the results beside the weights, as JSON types."""
    spec = read_summary(local_path(weights, root, FIELD)).get("spec")
    if not isinstance(spec, dict) or "model" not in spec:
        where = weights if is_uri(weights) else str(Path(weights))
        raise UserError(
            f"{FIELD}: {where} contains no {SUMMARY_FILE} that names the model of its weights",
            "set it to the results folder of a job, or name the model in spec.distillation.model",
        )
    return spec["model"]


def _read_regularization(weights: str, root: str) -> RegularizationSpec:
    """Return the regularization in the results beside the weights; none if there are no results."""
    spec = read_summary(local_path(weights, root, FIELD)).get("spec")
    raw = spec.get("regularization", {}) if isinstance(spec, dict) else {}
    return _parse(RegularizationSpec, raw, f"{FIELD}: {SUMMARY_FILE}")


def _parse(kind: type[_Kind], raw: Any, field: str) -> _Kind:
    try:
        return kind.model_validate_json(json.dumps(raw), by_alias=True, by_name=False)
    except ValidationError as error:
        raise UserError(f"{field}: {error.errors()[0]['msg']}") from error
