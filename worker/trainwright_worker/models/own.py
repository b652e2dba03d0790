"""Builds a model from a class of the user's, and checks the outputs that it returns."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from trainwright.api.spec import TrainingJobSpec
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.models.vision import stand_ins
from trainwright_worker.own_code import blame, check_arguments, import_own

FIELD = "spec.model.class"
_SAMPLES = 2


def build_own(path: str, spec: TrainingJobSpec, facts: Facts) -> nn.Module:
    """Return the model that a class of the user's builds.

    The class is called with `spec.model.args` and with those facts about the data for which it has parameters: `input_shape`,
    `outputs`, `vocabulary`, `padding`.

    Args:
        path: Import path of the class.
        spec: The job.
        facts: Input shape, number of outputs and vocabulary size of the data.

    Raises:
        UserError: The class cannot be imported or called, is no torch.nn.Module, or returns outputs of the wrong shape.
    """
    make = import_own(path, FIELD)
    args = {**_facts_for(make, facts), **(spec.model.args or {})}
    check_arguments(make, args, path, "spec.model.args")
    try:
        model = make(**args)
    except Exception as error:
        # On the meta device, code that reads values fails although it is right.
        raise error if _on_meta() else blame(error, FIELD, path, "could not be built") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{FIELD}: {path} returned an object of type {type(model).__name__}, not a torch.nn.Module")
    if not any(weight.requires_grad for weight in model.parameters()):
        raise UserError(f"{FIELD}: {path} has no parameters to train")
    _check_outputs(model, path, spec, facts)
    return model


def _facts_for(make: Any, facts: Facts) -> dict[str, Any]:
    """Return the facts about the data that a class has parameters for."""
    known = {
        "input_shape": facts.shape,
        "outputs": facts.outputs,
        "vocabulary": facts.vocabulary,
        "padding": facts.padding,
    }
    try:
        wanted = inspect.signature(make).parameters
    except ValueError:
        return {}
    return {name: value for name, value in known.items() if name in wanted}


def _on_meta() -> bool:
    return torch.get_default_device().type == "meta"


def _check_outputs(model: nn.Module, path: str, spec: TrainingJobSpec, facts: Facts) -> None:
    """Check the shape of the outputs by a forward pass without values. A model that needs values is checked by its first step.

    Raises:
        UserError: The outputs are no tensor, or have another shape than the task needs.
    """
    dtype = torch.int64 if facts.vocabulary is not None else torch.float32
    inputs = torch.empty(_SAMPLES, *facts.shape, dtype=dtype, device="meta")
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = functional_call(model, stand_ins(model), (inputs,), tie_weights=False)
    except Exception:  # noqa: BLE001 - models that need values fail in many ways
        return
    finally:
        model.train(training)
    if not isinstance(outputs, Tensor):
        raise UserError(
            f"{FIELD}: {path} returns an object of type {type(outputs).__name__}: return the tensor of outputs alone"
        )
    length = facts.shape[:1] if spec.traits.per_position else ()
    if outputs.shape != (_SAMPLES, *length, facts.outputs):
        found, needed = ("x".join(map(str, shape)) for shape in (outputs.shape[1:], (*length, facts.outputs)))
        raise UserError(
            f"{FIELD}: {path} returns outputs of {found or 'no dimension'} per sample, but the data needs {needed}",
            "give the class a parameter `outputs`: it is called with the number of outputs",
        )
