"""How to train: optimizer, schedule, loss, regularization, length, evaluation."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from trainwright.api.base import Model, Rule, at_most_one_of, one_of


class OptimizerName(StrEnum):
    """The optimizers."""

    SGD = "sgd"
    ADAM = "adam"
    ADAMW = "adamw"


class ScheduleName(StrEnum):
    """How the learning rate changes after the warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"
    STEP = "step"


class LossName(StrEnum):
    """The losses."""

    CROSS_ENTROPY = "cross-entropy"
    MSE = "mse"


class Precision(StrEnum):
    """The arithmetic of the forward and backward pass."""

    FP32 = "fp32"
    BF16 = "bf16"


Fraction = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSpec(Model):
    """The rule that turns gradients into steps."""

    name: OptimizerName = Field(OptimizerName.ADAM, description="sgd, adam or adamw.")
    learning_rate: float = Field(0.001, gt=0, le=1_000, description="Learning rate after the warm-up.")
    momentum: float | None = Field(None, ge=0, lt=1, description="Momentum (sgd only).")
    nesterov: bool | None = Field(None, description="Nesterov momentum (sgd with momentum only).")
    betas: list[Fraction] | None = Field(
        None, min_length=2, max_length=2, description="Decay of the two running means (adam, adamw); 0.9 and 0.999."
    )
    epsilon: float | None = Field(None, gt=0, le=1, description="Added to the denominator (adam, adamw); 1e-8.")
    weight_decay: float = Field(
        0, ge=0, le=1_000, description="Weight decay: coupled for sgd and adam, decoupled for adamw."
    )

    rules = (
        Rule(
            field="momentum",
            message="momentum belongs to sgd: choose name sgd, or remove momentum (adam and adamw have betas)",
            cel="!has(self.momentum) || self.name == 'sgd'",
            holds=lambda self: self.momentum is None or self.name == OptimizerName.SGD,
        ),
        Rule(
            field="nesterov",
            message="nesterov needs a momentum above 0",
            cel="!has(self.nesterov) || !self.nesterov || (has(self.momentum) && self.momentum > 0.0)",
            holds=lambda self: not self.nesterov or bool(self.momentum),
        ),
        Rule(
            field="betas",
            message="betas belong to adam and adamw: remove them, or choose one of these",
            cel="!has(self.betas) || self.name != 'sgd'",
            holds=lambda self: self.betas is None or self.name != OptimizerName.SGD,
        ),
        Rule(
            field="epsilon",
            message="epsilon belongs to adam and adamw: remove it, or choose one of these",
            cel="!has(self.epsilon) || self.name != 'sgd'",
            holds=lambda self: self.epsilon is None or self.name != OptimizerName.SGD,
        ),
    )


class ScheduleSpec(Model):
    """How the learning rate changes over the run."""

    name: ScheduleName = Field(
        ScheduleName.CONSTANT,
        description="constant; linear (falls to finalFraction); cosine (falls to finalFraction along a half cosine); "
        "step (multiplied by gamma every stepEverySteps).",
    )
    warmup_steps: int = Field(0, ge=0, le=1_000_000_000, description="Steps over which the rate rises from 0.")
    final_fraction: float = Field(
        0, ge=0, le=1, description="Learning rate at the last step, as a fraction of the full one (linear, cosine)."
    )
    gamma: float = Field(0.1, gt=0, le=1, description="Factor per stage (step).")
    step_every_steps: int | None = Field(None, ge=1, le=1_000_000_000, description="Steps per stage (step).")

    rules = (
        Rule(
            field="stepEverySteps",
            message="stepEverySteps belongs to the step schedule, which needs it",
            cel="(self.name == 'step') == has(self.stepEverySteps)",
            holds=lambda self: (self.name == ScheduleName.STEP) == (self.step_every_steps is not None),
        ),
    )


class LossSpec(Model):
    """What is minimised."""

    name: LossName = Field(description="cross-entropy (classification) or mse (regression).")


class RegularizationSpec(Model):
    """Penalties against overfitting, added to the loss or to the network."""

    l1: float = Field(0, ge=0, le=1_000, description="Weight of the sum of absolute weights, added to the loss.")
    l2: float = Field(0, ge=0, le=1_000, description="Weight of half the sum of squared weights, added to the loss.")
    dropout: float = Field(0, ge=0, lt=1, description="Dropout after every hidden dense layer that has an activation.")


class TrainingSpec(Model):
    """How long and in what portions."""

    epochs: int | None = Field(None, ge=1, le=1_000_000, description="Passes over the training split.")
    steps: int | None = Field(None, ge=1, le=1_000_000_000, description="Optimizer steps, instead of epochs.")
    global_batch_size: int = Field(
        64, ge=1, le=10_000_000, description="Samples per optimizer step over all processes together."
    )
    precision: Precision = Field(Precision.FP32, description="fp32, or bf16 (autocast; weights stay fp32).")
    gradient_clipping: float | None = Field(
        None, gt=0, le=1_000_000, description="Largest allowed L2 norm of the gradient."
    )
    seed: int = Field(0, ge=0, le=4_294_967_295, description="Seed of initial weights, shuffling and dropout.")
    deterministic: bool = Field(
        False, description="Only deterministic kernels: the same run gives the same bits, at some cost in speed."
    )

    rules = (one_of("epochs", "steps", what="training"),)


class EvaluationSpec(Model):
    """When to measure the model on the validation split. The test split is measured once, at the end."""

    every_epochs: int | None = Field(None, ge=1, le=1_000_000, description="Epochs between evaluations; 1 by default.")
    every_steps: int | None = Field(None, ge=1, le=1_000_000_000, description="Steps between evaluations.")

    rules = (at_most_one_of("every_epochs", "every_steps", what="evaluation"),)
