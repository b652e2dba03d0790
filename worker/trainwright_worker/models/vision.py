"""Image models of torchvision and timm, without the libraries' pretrained weights: nothing is downloaded."""

import difflib
import importlib
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from trainwright.api.spec import TrainingJobSpec
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.models.layers import IMAGE_DIMENSIONS

_OURS: Final = frozenset(
    {
        *("weights", "progress", "num_classes", "pretrained", "in_chans", "checkpoint_path", "cache_dir"),
        *("pretrained_cfg", "pretrained_cfg_overlay", "aux_logits", "device", "dtype"),
    }
)
"""Arguments that other fields of the spec determine, or that would download files."""
_AUXILIARY: Final = frozenset({"googlenet", "inception_v3"})
"""Models that by default also return the outputs of auxiliary heads and take minutes to initialize their weights."""
_COLOURS: Final = 3


def build_torchvision(name: str, spec: TrainingJobSpec, facts: Facts) -> nn.Module:
    """Return a classification model of torchvision.

    Its first convolution gets the number of channels of the images.

    Raises:
        UserError: There is no such model, or it rejects the arguments or the size of the images.
    """
    models = importlib.import_module("torchvision.models")
    _check(name, models.list_models(module=models), spec, facts)
    single = {"aux_logits": False, "init_weights": False} if name in _AUXILIARY else {}
    arguments = {"num_classes": facts.outputs, **single, **_args(spec)}
    try:
        with _Widths() if name.startswith("regnet") else nullcontext():
            model: nn.Module = models.get_model(name, weights=None, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"spec.model.args: torchvision:{name} rejects them: {error}") from error
    if facts.shape[0] != _COLOURS:
        _adapt_stem(model, facts.shape[0])
    check_images(model, spec, facts)
    return model


def build_timm(name: str, spec: TrainingJobSpec, facts: Facts) -> nn.Module:
    """Return a model of timm for the number of channels of the images.

    Raises:
        UserError: There is no such model, or it rejects the arguments or the size of the images.
    """
    timm = importlib.import_module("timm")
    plain = name.partition(".")[0]  # A tag names pretrained weights; the architecture is the same.
    _check(name, timm.list_models() if not timm.is_model(plain) else [name], spec, facts)
    arguments = {"num_classes": facts.outputs, "in_chans": facts.shape[0], **_args(spec)}
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        if isinstance(error, NotImplementedError) and torch.get_default_device().type == "meta":
            raise  # The model reads a value of a tensor, and tensors on the meta device have none.
        raise UserError(f"spec.model: timm:{name} rejects its args: {error}") from error
    check_images(model, spec, facts)
    return model


def unknown_name(name: str, known: Iterable[str], library: str) -> UserError:
    """Return the error for an unknown model name, with similar names as the hint."""
    near = difflib.get_close_matches(name, list(known), n=3)
    hint = f"did you mean {', '.join(f'{library}:{found}' for found in near)}?" if near else None
    return UserError(f"spec.model.name: {library} has no model {name}", hint)


class _Widths(TorchFunctionMode):
    """Creates small tensors on the CPU even under the meta device: regnet computes its widths from their values."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        device = {"device": "cpu"} if func in (torch.arange, torch.tensor) else {}
        return func(*args, **{**(kwargs or {}), **device})


def _args(spec: TrainingJobSpec) -> dict[str, Any]:
    return dict(spec.model.args or {})


def _check(name: str, known: Iterable[str], spec: TrainingJobSpec, facts: Facts) -> None:
    library = str(spec.model.name).partition(":")[0]
    if name not in known:
        raise unknown_name(name, known, library)
    if len(facts.shape) != IMAGE_DIMENSIONS or facts.vocabulary is not None:
        what = "text" if facts.vocabulary is not None else f"inputs of {'x'.join(map(str, facts.shape))}"
        raise UserError(
            f"spec.model.name: {spec.model.name} reads images, but the data has {what}",
            "use rnn, lstm, gru, transformer or hf:TYPE for text, and mlp for features",
        )
    for given in _args(spec):
        if given in _OURS:
            raise UserError(
                f"spec.model.args.{given}: is determined by the data and spec.model.pretrained", "remove it"
            )
    if spec.regularization.dropout:
        raise UserError(
            f"spec.regularization.dropout: {spec.model.name} has its own dropout setting",
            "set it in spec.model.args, if the model supports it: dropout (torchvision) or drop_rate (timm)",
        )


def _adapt_stem(model: nn.Module, channels: int) -> None:
    """Replace the first convolution by one for images of `channels` channels."""
    name, stem = next((name, part) for name, part in model.named_modules() if isinstance(part, nn.Conv2d))
    parent, _, last = name.rpartition(".")
    adapted = nn.Conv2d(
        channels,
        stem.out_channels,
        stem.kernel_size,  # type: ignore[arg-type]
        stem.stride,  # type: ignore[arg-type]
        stem.padding,  # type: ignore[arg-type]
        bias=stem.bias is not None,
    )
    setattr(model.get_submodule(parent), last, adapted)


def stand_ins(model: nn.Module) -> dict[str, Tensor]:
    """Return meta tensors in place of the model's parameters and buffers, for `functional_call` without `tie_weights`.

    A module that is used in several places is named once, because torch would otherwise leave meta tensors in the
    model.
    """
    made: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}
    for place, part in model.named_modules():
        own = [*part.named_parameters(recurse=False, remove_duplicate=False), *part.named_buffers(recurse=False)]
        for name, tensor in own:
            if id(tensor) not in made:
                made[id(tensor)] = torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)
            state[f"{place}.{name}" if place else name] = made[id(tensor)]
    return state


def check_images(model: nn.Module, spec: TrainingJobSpec, facts: Facts) -> None:
    """Check that the model accepts images of the data's size, by a forward pass that computes only shapes.

    Raises:
        UserError: It does not.
    """
    images = torch.empty(2, *facts.shape, device="meta")
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = functional_call(model, stand_ins(model), (images,), tie_weights=False)
    except NotImplementedError:
        return  # The model depends on values of its inputs; the first training step checks it.
    except (RuntimeError, ValueError, AssertionError) as error:
        size = "x".join(map(str, facts.shape))
        raise UserError(
            f"spec.model.name: {spec.model.name} does not accept images of {size}: {str(error).splitlines()[0]}",
            "change the size of the images, or set the size that the model expects in spec.model.args (torchvision's "
            "vit: image_size; timm: img_size)",
        ) from error
    finally:
        model.train(training)
    if outputs.shape != (2, facts.outputs):
        raise UserError(
            f"spec.model.name: {spec.model.name} returns outputs of {'x'.join(map(str, outputs.shape[1:]))}, but the data "
            f"needs {facts.outputs}"
        )
