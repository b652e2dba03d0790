"""How gradients become steps: the optimizer and the learning rate over the run."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from trainwright.api.base import Model, Rule


class OptimizerName(StrEnum):
    """The optimizers."""

    SGD = "sgd"
    ADAM = "adam"
    ADAMW = "adamw"
    ADAFACTOR = "adafactor"
    LAMB = "lamb"
    LARS = "lars"
    MUON = "muon"


class DecayScope(StrEnum):
    """Which weights decay."""

    ALL = "all"
    MATRICES = "matrices"


class ScheduleName(StrEnum):
    """How the learning rate changes after the warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"
    ONE_CYCLE = "one-cycle"
    STEP = "step"


WITH_MOMENTUM = frozenset({OptimizerName.SGD, OptimizerName.LARS, OptimizerName.MUON})
WITH_BETAS = frozenset({OptimizerName.ADAM, OptimizerName.ADAMW, OptimizerName.LAMB, OptimizerName.MUON})
SPARING = frozenset({OptimizerName.LAMB, OptimizerName.LARS, OptimizerName.MUON})
"""Optimizers whose authors spare biases and norms, and so do we by default."""

Fraction = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSpec(Model):
    """The rule that turns gradients into steps."""

    name: OptimizerName = Field(
        OptimizerName.ADAM,
        description="sgd, adam, adamw; adafactor (little memory); lamb and lars (large batches: steps in proportion to "
        "the size of each weight); muon (orthogonal steps for matrices between embedding and output layer, adamw at the "
        "same learning rate for all else).",
    )
    learning_rate: float = Field(0.001, gt=0, le=1_000, description="Learning rate after the warm-up.")
    momentum: float | None = Field(
        None, ge=0, lt=1, description="Momentum (sgd, lars: 0 by default; muon: 0.95 by default)."
    )
    nesterov: bool | None = Field(None, description="Nesterov momentum (sgd or lars, with momentum).")
    betas: list[Fraction] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="Decay of the two running means (adam, adamw, lamb, and muon's adamw); 0.9 and 0.999.",
    )
    epsilon: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Added to the denominator (adam, adamw, lamb, and muon's adamw); 1e-8, lamb: 1e-6.",
    )
    weight_decay: float = Field(
        0, ge=0, le=1_000, description="Weight decay: coupled for sgd, adam and lars, decoupled for all others."
    )
    decay_scope: DecayScope | None = Field(
        None,
        description="Which weights decay: all, as torch's optimizers do; or matrices, which spares biases, norms and "
        "whatever else has one dimension. By default all for sgd, adam, adamw and adafactor, matrices for lamb, lars and "
        "muon.",
    )

    rules = (
        Rule(
            field="momentum",
            message="momentum belongs to sgd, lars and muon: choose one of these, or remove momentum (the others have betas)",
            cel="!has(self.momentum) || self.name in ['sgd', 'lars', 'muon']",
            holds=lambda self: self.momentum is None or self.name in WITH_MOMENTUM,
        ),
        Rule(
            field="nesterov",
            message="nesterov needs sgd or lars, and a momentum above 0 (muon always has it)",
            cel="!has(self.nesterov) || !self.nesterov || (has(self.momentum) && self.momentum > 0.0 && "
            "self.name != 'muon')",
            holds=lambda self: not self.nesterov or (bool(self.momentum) and self.name != OptimizerName.MUON),
        ),
        Rule(
            field="betas",
            message="betas belong to adam, adamw, lamb and muon: remove them, or choose one of these",
            cel="!has(self.betas) || self.name in ['adam', 'adamw', 'lamb', 'muon']",
            holds=lambda self: self.betas is None or self.name in WITH_BETAS,
        ),
        Rule(
            field="epsilon",
            message="epsilon belongs to adam, adamw, lamb and muon: remove it, or choose one of these",
            cel="!has(self.epsilon) || self.name in ['adam', 'adamw', 'lamb', 'muon']",
            holds=lambda self: self.epsilon is None or self.name in WITH_BETAS,
        ),
    )


class ScheduleSpec(Model):
    """How the learning rate changes over the run."""

    name: ScheduleName = Field(
        ScheduleName.CONSTANT,
        description="constant; linear (falls to finalFraction); cosine (falls to finalFraction along a half cosine); "
        "one-cycle (rises from a 25th along a half cosine during the warm-up, then falls to finalFraction along another); "
        "step (multiplied by gamma every stepEverySteps).",
    )
    warmup_steps: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="Steps over which the rate rises from 0; for one-cycle, 0 stands for 30 % of the run.",
    )
    final_fraction: float = Field(
        0,
        ge=0,
        le=1,
        description="Learning rate at the last step, as a fraction of the full one (linear, cosine, one-cycle).",
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
