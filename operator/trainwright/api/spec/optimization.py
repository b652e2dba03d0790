"""The optimizer and the learning-rate schedule."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from trainwright.api.base import Model, Rule, in_cel, listed


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
    """The weights to which weight decay applies."""

    ALL = "all"
    MATRICES = "matrices"


class ScheduleName(StrEnum):
    """How the learning rate changes after the warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"
    ONE_CYCLE = "one-cycle"
    STEP = "step"


@dataclass(frozen=True)
class OptimizerTraits:
    """The properties in which an optimizer differs from others.

    Attributes:
        note: What a user should know when choosing it, in a few words.
        momentum: Whether it has a momentum.
        nesterov: Whether Nesterov momentum can be chosen; muon always has it.
        betas: Whether it has running means of gradients, decayed by betas, and an epsilon.
        spares_vectors: Whether biases and norms (weights with one dimension) are by default exempt from decay, as its authors propose.
        shards: Whether it can take a step with weights that are split over processes.
    """

    note: str = ""
    momentum: bool = False
    nesterov: bool = False
    betas: bool = False
    spares_vectors: bool = False
    shards: bool = True


OPTIMIZERS: Final = {
    OptimizerName.SGD: OptimizerTraits(momentum=True, nesterov=True),
    OptimizerName.ADAM: OptimizerTraits(betas=True),
    OptimizerName.ADAMW: OptimizerTraits(betas=True),
    OptimizerName.ADAFACTOR: OptimizerTraits("little memory", shards=False),
    OptimizerName.LAMB: OptimizerTraits(
        "large batches: steps in proportion to the size of each weight", betas=True, spares_vectors=True
    ),
    OptimizerName.LARS: OptimizerTraits("large batches, as lamb", momentum=True, nesterov=True, spares_vectors=True),
    OptimizerName.MUON: OptimizerTraits(
        "orthogonal steps for matrices between embedding and output layer, adamw at the same learning rate for all else",
        momentum=True,
        betas=True,
        spares_vectors=True,
    ),
}
"""The optimizers. A new one is a row here and a maker in the worker's `optim/optimizer.py`."""


def optimizers_where(holds: Callable[[OptimizerTraits], bool]) -> tuple[OptimizerName, ...]:
    """Return the optimizers whose traits meet a condition."""
    return tuple(name for name, traits in OPTIMIZERS.items() if holds(traits))


_MOMENTUM: Final = optimizers_where(lambda traits: traits.momentum)
_NESTEROV: Final = optimizers_where(lambda traits: traits.nesterov)
_BETAS: Final = optimizers_where(lambda traits: traits.betas)
_ALL_DECAY: Final = optimizers_where(lambda traits: not traits.spares_vectors)
_MATRICES_DECAY: Final = optimizers_where(lambda traits: traits.spares_vectors)


Fraction = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSpec(Model):
    """The rule that turns gradients into steps."""

    name: OptimizerName = Field(
        OptimizerName.ADAM,
        description="; ".join(f"{name} ({traits.note})" if traits.note else name for name, traits in OPTIMIZERS.items())
        + ".",
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
        description="Which weights decay: all, as with torch's optimizers; or matrices, which exempts biases, norms and "
        f"other one-dimensional weights. By default all for {listed(_ALL_DECAY, 'and')}, matrices for "
        f"{listed(_MATRICES_DECAY, 'and')}.",
    )

    rules = (
        Rule(
            field="momentum",
            message=f"only {listed(_MOMENTUM, 'and')} have momentum: choose one of these, or remove momentum (the others "
            "have betas)",
            cel=f"!has(self.momentum) || self.name in {in_cel(_MOMENTUM)}",
            holds=lambda self: self.momentum is None or self.traits.momentum,
        ),
        Rule(
            field="nesterov",
            message=f"nesterov needs {listed(_NESTEROV, 'or')}, and a momentum above 0 (muon always has it)",
            cel="!has(self.nesterov) || !self.nesterov || (has(self.momentum) && self.momentum > 0.0 && "
            f"self.name in {in_cel(_NESTEROV)})",
            holds=lambda self: not self.nesterov or (bool(self.momentum) and self.traits.nesterov),
        ),
        Rule(
            field="betas",
            message=f"only {listed(_BETAS, 'and')} have betas: remove them, or choose one of these",
            cel=f"!has(self.betas) || self.name in {in_cel(_BETAS)}",
            holds=lambda self: self.betas is None or self.traits.betas,
        ),
        Rule(
            field="epsilon",
            message=f"only {listed(_BETAS, 'and')} have epsilon: remove it, or choose one of these",
            cel=f"!has(self.epsilon) || self.name in {in_cel(_BETAS)}",
            holds=lambda self: self.epsilon is None or self.traits.betas,
        ),
    )

    @property
    def traits(self) -> OptimizerTraits:
        """The traits of the optimizer."""
        return OPTIMIZERS[self.name]


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
            message="schedule.name step requires stepEverySteps, and no other schedule accepts it",
            cel="(self.name == 'step') == has(self.stepEverySteps)",
            holds=lambda self: (self.name == ScheduleName.STEP) == (self.step_every_steps is not None),
        ),
    )
