"""The objective: the loss, the penalties and distillation."""

from enum import StrEnum

from pydantic import Field, JsonValue

from trainwright.api.base import Model, Rule, one_of
from trainwright.api.spec.code import ImportPath
from trainwright.api.spec.paths import Path


class LossName(StrEnum):
    """The losses."""

    CROSS_ENTROPY = "cross-entropy"
    BCE = "bce"
    MSE = "mse"
    L1 = "l1"
    HUBER = "huber"
    CTC = "ctc"


class LossSpec(Model):
    """The loss to minimise: a named one, or a function of your own."""

    name: LossName | None = Field(
        None,
        description="cross-entropy (classification, language-modeling), bce (classification: an independent yes or no "
        "for every class), mse, l1 or huber (regression), ctc (transcription; class 0 is the blank).",
    )
    function: ImportPath | None = Field(
        None,
        description="A function of your own, as MODULE:NAME; the module lies in the folder of code, or in the worker image. It is "
        "called as function(outputs=..., target=..., **args) and returns one loss per sample, a tensor [batch].",
    )
    args: dict[str, JsonValue] | None = Field(None, max_length=32, description="Arguments of the function.")
    label_smoothing: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Fraction of the target that is spread over all classes (cross-entropy). Evaluations do not use it.",
    )
    delta: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="Error at which huber changes from squared to absolute error, in standard deviations of the target "
        "(or in its units, if it is not normalized); 1 by default.",
    )

    rules = (
        one_of("name", "function", what="loss"),
        Rule(
            field="args",
            message="args belong to a function: set function, or remove args",
            cel="!has(self.args) || 'function' in self",
            holds=lambda self: self.args is None or self.function is not None,
        ),
        Rule(
            field="labelSmoothing",
            message="labelSmoothing applies only to cross-entropy: remove it, or set loss.name to cross-entropy",
            cel="!has(self.labelSmoothing) || (has(self.name) && self.name == 'cross-entropy')",
            holds=lambda self: self.label_smoothing is None or self.name == LossName.CROSS_ENTROPY,
        ),
        Rule(
            field="delta",
            message="delta applies only to huber: remove it, or set loss.name to huber",
            cel="!has(self.delta) || (has(self.name) && self.name == 'huber')",
            holds=lambda self: self.delta is None or self.name == LossName.HUBER,
        ),
    )


class RegularizationSpec(Model):
    """Penalties against overfitting, added to the loss or to the network."""

    l1: float = Field(0, ge=0, le=1_000, description="Weight of the sum of absolute weights, added to the loss.")
    l2: float = Field(0, ge=0, le=1_000, description="Weight of half the sum of squared weights, added to the loss.")
    dropout: float = Field(
        0,
        ge=0,
        lt=1,
        description="Dropout after every hidden dense layer that has an activation; the default of rnn, lstm, gru, "
        "transformer and gpt, too. Models of other libraries take theirs in args.",
    )


class DistillationSpec(Model):
    """Distillation: the model learns the outputs of a trained teacher in addition to the correct answers."""

    weights: Path = Field(
        description="The teacher: the results folder of another job, or (with model) pretrained weights as for "
        "model.pretrained; in a mounted volume or at a URI."
    )
    model: str | None = Field(
        None,
        min_length=1,
        max_length=253,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]*$",
        description="Name of the teacher's model, as model.name; not needed with a results folder, which contains it.",
    )
    args: dict[str, JsonValue] | None = Field(
        None, max_length=32, description="Arguments of the teacher's model, as model.args."
    )
    temperature: float = Field(
        2,
        gt=0,
        le=1_000,
        description="Both models' logits are divided by the temperature. A higher one gives unlikely classes more weight.",
    )
    alpha: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Weight of the teacher: the loss is alpha x temperature^2 x the Kullback-Leibler divergence from the "
        "teacher's outputs, plus (1 - alpha) x the loss of the correct answers.",
    )

    rules = (
        Rule(
            field="args",
            message="args need a named model: set model, or remove args",
            cel="!has(self.args) || has(self.model)",
            holds=lambda self: self.args is None or self.model is not None,
        ),
    )
