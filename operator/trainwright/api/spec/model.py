"""The model: a list of layers, a model that Trainwright knows by name, one of a library, or a class of the user's."""

import difflib
import json
import re
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from trainwright.api.base import Model, Rule, one_of
from trainwright.api.mistakes import message_of
from trainwright.api.spec.architecture import ARGS, ModelArgs, ModelName
from trainwright.api.spec.code import ImportPath
from trainwright.api.spec.layer import Layer
from trainwright.api.spec.paths import Path


class Library(StrEnum):
    """Libraries that provide models."""

    TORCHVISION = "torchvision"
    TIMM = "timm"
    HF = "hf"


NAME_PATTERN: Final = f"^({'|'.join(ModelName)}|({'|'.join(Library)}):[A-Za-z0-9][A-Za-z0-9_.-]*)$"


_VISION: Final = {
    "alexnet": "",
    "convnext_": "tiny",
    "densenet": "121",
    "efficientnet_": "b0",
    "googlenet": "",
    "inception_": "v3",
    "maxvit_": "t",
    "mnasnet": "1_0",
    "mobilenet_": "v3_small",
    "regnet_": "y_400mf",
    "resnet": "50",
    "resnext": "50_32x4d",
    "shufflenet_": "v2_x1_0",
    "squeezenet": "1_1",
    "swin_": "t",
    "vgg": "16",
    "vit_": "b_16",
    "wide_": "resnet50_2",
}
"""Families of torchvision's models, each with the rest of a typical name. The operator does not have torchvision installed."""
_TRANSFORMERS: Final = (
    *("albert", "bert", "bloom", "deberta-v2", "deberta", "distilbert", "electra", "falcon", "gemma2", "gemma"),
    *("llama", "mistral", "mixtral", "modernbert", "opt", "phi3", "phi", "qwen2", "qwen3", "roberta", "xlm-roberta"),
)
"""Types of transformers' models. Of two with a common prefix, the longer one comes first."""


class LoraSpec(Model):
    """Low-rank adaptation: the pretrained weights are frozen, and small added matrices are trained."""

    rank: int = Field(8, ge=1, le=4_096, description="Rank of the matrices.")
    alpha: float = Field(16, gt=0, le=100_000, description="The output of the matrices is scaled by alpha / rank.")
    dropout: float = Field(0, ge=0, lt=1, description="Dropout of their inputs.")
    targets: list[Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9_.*?]+$")]] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Which linear layers, by the end of their name in the model (query, value) or as a pattern "
        "(*.attention.*); the projections of attention by default. Layers with shared weights are never adapted.",
    )


class ModelSpec(Model):
    """The model to train: `layers` in order, or a `name` or `class` with `args`; from scratch or from pretrained weights."""

    name: str | None = Field(
        None,
        min_length=1,
        max_length=253,
        pattern=NAME_PATTERN,
        description="A model that Trainwright knows: linear (one dense layer), mlp (hidden dense layers), cnn "
        "(convolution and pooling blocks), lenet (LeNet-5), rnn, lstm, gru (text and frames), transformer (encoder, or "
        "decoder for language modelling), gpt (GPT-2 and GPT-3 sizes); torchvision:NAME or timm:NAME (images, "
        "torchvision:resnet50); hf:TYPE (a type of Hugging Face transformers, hf:bert). The outputs follow from the data.",
    )
    class_: ImportPath | None = Field(
        None,
        description="A class of your own, a torch.nn.Module, as MODULE:NAME; the module lies in the folder of code, or in the "
        "worker image. docs/own-code.md says what it gets and must return.",
    )
    args: dict[str, JsonValue] | None = Field(
        None,
        max_length=32,
        description="Arguments of the named model, or of the class. mlp: hidden (list of widths), activation. cnn: channels (list), "
        "kernelSize, padding, hidden, activation. rnn, lstm, gru: embedding, hidden, layers, bidirectional, pooling, "
        "dropout. transformer: dimension, heads, layers, feedForward, dropout, positions. gpt: size, layers, heads, "
        "dimension, context, vocabulary, vocabularyMultiple, dropout. torchvision, timm, hf: what their builder or "
        "configuration takes, under its own name (hidden_size).",
    )
    layers: list[Layer] | None = Field(
        None,
        min_length=1,
        max_length=256,
        description="The layers in order. The input shape follows from the data, so no layer needs its inputs. Do not "
        "end a classifier with a softmax: the cross-entropy loss applies it.",
    )
    pretrained: Path | None = Field(
        None,
        description="Weights to start from: a Hugging Face folder (config.json, model.safetensors), a .safetensors or "
        "a torch .pth file, in a mounted volume or at a URI (s3://bucket/key). A head for other classes is replaced.",
    )
    lora: LoraSpec | None = Field(None, description="Train only low-rank additions to the weights.")

    rules = (
        one_of("name", "layers", "class_", what="model"),
        Rule(
            field="args",
            message="args belong to a named model or a class: set name or class, or remove args",
            cel="!has(self.args) || !has(self.layers)",
            holds=lambda self: self.args is None or self.layers is None,
        ),
        Rule(
            field="lora",
            message="lora freezes the pretrained weights, so it needs some: set pretrained, or remove lora",
            cel="!has(self.lora) || has(self.pretrained)",
            holds=lambda self: self.lora is None or self.pretrained is not None,
        ),
    )

    @field_validator("name", mode="before")
    @classmethod
    def _name_is_known(cls, value: Any) -> Any:
        """Explain the pattern and suggest the name that was probably meant."""
        if not isinstance(value, str) or re.fullmatch(NAME_PATTERN, value):
            return value
        elsewhere = _elsewhere(value)
        near = [elsewhere] if elsewhere else difflib.get_close_matches(value, list(ModelName), n=1, cutoff=0.7)
        raise PydanticCustomError(
            "model_name",
            "{message}",
            {
                "message": f"must be {', '.join(ModelName)}, torchvision:NAME, timm:NAME or hf:TYPE"
                + "".join(f" (did you mean {name}?)" for name in near)
            },
        )

    @model_validator(mode="after")
    def _args_fit_the_name(self) -> Self:
        self.resolved_args()
        return self

    @property
    def foreign(self) -> tuple[Library, str] | None:
        """The library and its name for the model; None for layers and for our own models."""
        library, colon, name = (self.name or "").partition(":")
        return (Library(library), name) if colon else None

    def resolved_args(self) -> ModelArgs | None:
        """Return the typed arguments of our own named model with defaults filled in; None for all others.

        Raises:
            PydanticCustomError: An argument is unknown or out of bounds. The API server cannot know; we can.
        """
        if self.name is None or self.foreign is not None:
            return None
        kind = ARGS[ModelName(self.name)]
        try:
            return kind.model_validate_json(json.dumps(self.args or {}), by_alias=True, by_name=False)
        except ValidationError as error:
            known = [field.alias or name for name, field in kind.model_fields.items()]
            mistakes = [(_args_path(detail), self._argument_mistake(detail, known)) for detail in error.errors()]
            raise PydanticCustomError("rules", "args", {"mistakes": mistakes}) from None

    def _argument_mistake(self, detail: ErrorDetails, known: list[str]) -> str:
        near = (
            difflib.get_close_matches(str(detail["loc"][0]), known, n=1) if detail["type"] == "extra_forbidden" else ()
        )
        meant = "".join(f"; did you mean {name}?" for name in near)
        return f"{message_of(detail)}{meant} (model {self.name} takes: {', '.join(known) or 'none'})"


def _elsewhere(name: str) -> str | None:
    """Return the full name of a library model that was named without its library; None if its family is unknown."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower())
    if "patch" in plain:
        return f"{Library.TIMM}:{plain.replace('-', '_')}"
    for kind in _TRANSFORMERS:
        if re.match(rf"{kind}(?![a-z]{{2}})", plain):
            return f"{Library.HF}:{kind}"
    for family, member in _VISION.items():
        stem = family.rstrip("_")
        if re.match(rf"{stem}(?![a-z]{{2}})", plain):
            rest = plain.removeprefix(stem).strip("-").replace("-", "_")
            return f"{Library.TORCHVISION}:{family}{rest or member}"
    return None


def _args_path(detail: ErrorDetails) -> str:
    return "args" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"])
