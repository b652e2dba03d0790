"""The state of training: everything to save so that an interrupted run gives exactly the same result as any other.

The position in the data and the learning rate are functions of the step, so they are not saved. State that differs
between ranks (random generators, the running sum of losses) is packed on each rank and gathered by rank 0.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainwright.api.figures import Evaluation

_LOSS_BYTES = 8


@dataclass
class Patience:
    """The state of early stopping.

    Attributes:
        best: The best value so far; None before the first evaluation.
        waited: Number of evaluations since the best one.
        over: Whether early stopping has ended training.
    """

    best: float | None = None
    waited: int = 0
    over: bool = False


@dataclass
class Omissions:
    """Steps that were not taken because the loss or the gradient was not finite.

    Attributes:
        skipped: Number of steps that were skipped individually.
        passed: Number of steps in ranges that were skipped after a rollback.
        before_epoch: How many of both are before the current epoch.
        holes: Ranges of bad data found by rollbacks, as the step counts before and after each range.
    """

    skipped: int = 0
    passed: int = 0
    before_epoch: int = 0
    holes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def in_epoch(self) -> int:
        """Number of steps of the current epoch that were not taken."""
        return self.skipped + self.passed - self.before_epoch


@dataclass
class TrainingProgress:
    """The progress and history of training.

    Attributes:
        step: Optimizer steps done.
        loss_sum: This rank's sum of batch losses since the start of the epoch (float64 scalar on the device).
        evaluation: The latest evaluation.
        best: The best evaluation on the validation split.
        history: One entry per finished epoch: its number, mean loss and step.
        evaluations: All evaluations on the validation split, in the order of steps.
        patience: The state of early stopping.
        omissions: Steps that were not taken.
    """

    step: int
    loss_sum: Tensor
    evaluation: Evaluation | None = None
    best: Evaluation | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    patience: Patience = field(default_factory=Patience)
    omissions: Omissions = field(default_factory=Omissions)

    def to_facts(self) -> dict[str, Any]:
        """Return the state that is the same on every rank, as JSON types."""
        return {
            "step": self.step,
            "evaluation": self.evaluation.to_wire() if self.evaluation else None,
            "best": self.best.to_wire() if self.best else None,
            "history": list(self.history),
            "evaluations": [evaluation.to_wire() for evaluation in self.evaluations],
            "patience": asdict(self.patience),
            "omissions": asdict(self.omissions),
        }

    def restore_facts(self, facts: dict[str, Any]) -> None:
        """Restore the state that `to_facts` returned."""
        self.step = facts["step"]
        self.evaluation = Evaluation.model_validate(facts["evaluation"]) if facts["evaluation"] else None
        self.best = Evaluation.model_validate(facts["best"]) if facts["best"] else None
        self.history = list(facts["history"])
        # Checkpoints of earlier versions do not contain evaluations.
        self.evaluations = [Evaluation.model_validate(each) for each in facts.get("evaluations", ())]
        self.patience = Patience(**facts["patience"])
        omissions = facts["omissions"]
        self.omissions = Omissions(**{**omissions, "holes": [(begin, end) for begin, end in omissions["holes"]]})


def pack_rank(progress: TrainingProgress) -> Tensor:
    """Return the state of this rank alone, its random generators and its sum of losses, as bytes ([n] uint8)."""
    parts = [progress.loss_sum.detach().cpu().reshape(1).view(torch.uint8), torch.get_rng_state()]
    if progress.loss_sum.is_cuda:
        parts.append(torch.cuda.get_rng_state(progress.loss_sum.device))
    return torch.cat(parts)


def unpack_rank(packed: Tensor, progress: TrainingProgress) -> None:
    """Restore the state that `pack_rank` returned."""
    cpu_bytes = torch.get_rng_state().numel()
    progress.loss_sum.copy_(packed[:_LOSS_BYTES].clone().view(torch.float64)[0])
    torch.set_rng_state(packed[_LOSS_BYTES : _LOSS_BYTES + cpu_bytes].clone())
    if progress.loss_sum.is_cuda and packed.numel() > _LOSS_BYTES + cpu_bytes:
        torch.cuda.set_rng_state(packed[_LOSS_BYTES + cpu_bytes :].clone(), progress.loss_sum.device)


def share_losses(packed: Collection[Tensor], progress: TrainingProgress) -> None:
    """Set this rank's sum of losses to the mean over all saved ranks, because the number of ranks has changed.

    Args:
        packed: The results of `pack_rank` of all saved ranks.
        progress: The progress of this rank.
    """
    sums = [rank[:_LOSS_BYTES].clone().view(torch.float64)[0] for rank in packed]
    progress.loss_sum.copy_(torch.stack(sums).mean())


def gather_state(
    model: nn.Module, optimizer: Optimizer, extras: dict[str, Tensor], ranks: list[Tensor]
) -> dict[str, Tensor]:
    """Return this rank's part of the state as live tensors by name, `<kind>.<name>`.

    Args:
        model: The unwrapped model, which determines the names of the weights.
        optimizer: The optimizer of the model; its state is named `<weight>.<key>`.
        extras: Other state of the whole job: averaged weights, the scale of the loss.
        ranks: On rank 0, the packed state of each rank.
    """
    state = {f"model.{name}": value for name, value in named_weights(model).items()}
    for name, weight in model.named_parameters():
        gathered = optimizer.state.get(weight, {}).items()
        state |= {f"optimizer.{name}.{key}": value for key, value in gathered if isinstance(value, Tensor)}
    state |= {f"extras.{name}": value for name, value in extras.items()}
    return state | {f"ranks.{rank}": packed for rank, packed in enumerate(ranks)}


def named_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the live weights and buffers of a model by name; a shared tensor appears once, under its first name."""
    held: set[int] = set()
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and id(value) not in held:
            held.add(id(value))
            weights[name] = value.detach()
    return weights
