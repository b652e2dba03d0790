"""Pretrained weights: read from common formats, renamed to the model's names, and checked tensor by tensor."""

from pathlib import Path

import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from trainwright.api.spec import TrainingJobSpec
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.models.files import CONFIG, local_path, read_summary, read_weights
from trainwright_worker.models.gpt import from_gpt2, is_gpt2
from trainwright_worker.models.head import head_names
from trainwright_worker.models.huggingface import HuggingFaceModel, read_state
from trainwright_worker.models.lora import DOWN, UP
from trainwright_worker.models.transformer import Transformer

FIELD = "spec.model.pretrained"
_SHOWN = 5
"""Maximum number of tensors that an error names."""
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.")
"""Prefixes that wrappers add to the names of weights."""
_CONVOLUTION_DIMENSIONS = 4
_TABLE = "inputs.weight"
"""Embedding of the built-in Transformer, one row per token."""
_COUNTER = "num_batches_tracked"
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
"""Auxiliary heads of torchvision's Inception models, which are only used for training."""


def load_pretrained(
    model: nn.Module, spec: TrainingJobSpec, facts: Facts, root: str, classes: tuple[str, ...] | None = None
) -> list[str]:
    """Load the job's pretrained weights into a model, in place, and return lines for the log.

    Args:
        model: The model.
        spec: The job.
        facts: Input shape, number of outputs and vocabulary size of the data.
        root: Folder that relative paths are resolved against.
        classes: Name of each class of the data. A head that an earlier job trained for other classes is not loaded.

    Raises:
        UserError: The weights are missing, damaged, or belong to another model; names the tensors.
    """
    if spec.model.pretrained is None:
        return []
    state, notes = read_pretrained(model, spec.model.pretrained, facts, root, classes=classes)
    model.load_state_dict(state, strict=False)
    return notes


def read_pretrained(
    model: nn.Module,
    path: str,
    facts: Facts,
    root: str,
    field: str = FIELD,
    classes: tuple[str, ...] | None = None,
) -> tuple[dict[str, Tensor], list[str]]:
    """Return weights on the CPU with the names and shapes of a model, and lines for the log.

    A head for another number of outputs or other classes is left out, so the model keeps its newly initialized head.

    Args:
        model: The model; only names and shapes matter, so it may be on the meta device.
        path: A folder, a file or a URI.
        facts: Input shape, number of outputs and vocabulary size of the data.
        root: Folder that relative paths are resolved against.
        field: Field of the spec that error messages name.
        classes: Name of each class of the data, in the order of the outputs; None to skip the comparison.

    Raises:
        UserError: The weights are missing, damaged, or belong to another model; names the tensors.
    """
    location = local_path(path, root, field)
    unused: list[str] = []
    if isinstance(model, HuggingFaceModel) and (location / CONFIG).is_file():
        state, unused = read_state(model, location)
    else:
        state = _renamed(read_weights(location, field), model)
    own = {name: value for name, value in model.state_dict().items() if not name.endswith((DOWN, UP))}
    head = head_names(model, facts.outputs)
    state = {name: value for name, value in state.items() if not name.startswith(_AUXILIARY)}
    state = {name: _adapted(name, value, own[name], model) if name in own else value for name, value in state.items()}
    other_classes = classes is not None and _stored_classes(location) not in (None, classes)
    replaced = {name for name in head if other_classes or name not in state or state[name].shape != own[name].shape}
    _check(state, own, replaced, field)
    kept = {name: value for name, value in state.items() if name not in replaced}
    notes = [f"starting from {path}: {len(kept)} tensors"]
    if replaced:
        why = "; the pretrained head has other classes or another order of classes" if other_classes else ""
        notes.append(f"new head for {facts.outputs} outputs: {_listed(sorted(replaced))}{why}")
    if unused:
        notes.append(f"not used: {_listed(unused)}")
    return kept, notes


def _stored_classes(location: Path) -> tuple[str, ...] | None:
    """Return the classes that an earlier job trained these weights for, in output order; None if unknown."""
    data = read_summary(location).get("data")
    classes = data.get("classes") if isinstance(data, dict) else None
    return tuple(map(str, classes)) if isinstance(classes, list) else None


def _renamed(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the weights under the model's names."""
    names = set(model.state_dict())
    if isinstance(model, Transformer) and is_gpt2(state):
        return from_gpt2(state)
    while not names & set(state):
        prefix = next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in state)), None)
        if prefix is None:
            return state
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _adapted(name: str, value: Tensor, own: Tensor, model: nn.Module) -> Tensor:
    """Return the weight in the model's shape if only the padding of the vocabulary or the colour channels differ."""
    if value.shape == own.shape or value.dim() != own.dim():
        return value
    table = isinstance(model, Transformer) and name == _TABLE and model.vocabulary <= len(value) <= len(own)
    if table and value.shape[1:] == own.shape[1:]:
        return F.pad(value, (0, 0, 0, len(own) - len(value)))
    grey = own.dim() == _CONVOLUTION_DIMENSIONS and own.shape[1] == 1
    if grey and value.shape[0] == own.shape[0] and value.shape[2:] == own.shape[2:]:
        return value.sum(1, keepdim=True)  # Equals the output for an RGB image with three equal channels.
    return value


def _check(state: dict[str, Tensor], own: dict[str, Tensor], replaced: set[str], field: str) -> None:
    shapes = [
        f"{name} has shape {tuple(value.shape)}, the model needs {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and name not in replaced and value.shape != own[name].shape
    ]
    missing = [name for name in own if name not in state and name not in replaced and not name.endswith(_COUNTER)]
    unknown = [name for name in state if name not in own]
    problems = [
        *([_listed(shapes, "; ")] if shapes else []),
        *([f"missing: {_listed(missing)}"] if missing else []),
        *([f"not in the model: {_listed(unknown)}"] if unknown else []),
    ]
    if problems:
        raise UserError(
            f"{field}: the weights do not match the model: {'; '.join(problems)}",
            "set spec.model.name and spec.model.args to the values that the weights were trained with",
        )


def _listed(names: list[str], separator: str = ", ") -> str:
    more = len(names) - _SHOWN
    return separator.join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
