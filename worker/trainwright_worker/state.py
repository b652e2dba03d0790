"""The state of training: all that must be saved so that an interrupted run ends bit for bit like one that was not.

The position in the data and the learning rate are functions of the step, so they need no place of their own. What differs
between ranks (generators, the running sum of the loss) is packed per rank and gathered by rank 0.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainwright.api.status import Evaluation
from trainwright_worker.errors import NON_FINITE_HINT, NonFiniteError, UserError

_LOSS_BYTES = 8


@dataclass
class Patience:
    """How long early stopping has waited for progress.

    Attributes:
        best: The best value so far; None before the first evaluation.
        waited: Evaluations since then.
        over: Whether training has ended because of it.
    """

    best: float | None = None
    waited: int = 0
    over: bool = False


@dataclass
class Omissions:
    """Steps that were not taken because of numbers that are not finite.

    Attributes:
        skipped: Steps left out so far, all together.
        before_epoch: How many of them lie before the current epoch.
        holes: Stretches of data passed over after rollbacks: steps done before, and after.
    """

    skipped: int = 0
    before_epoch: int = 0
    holes: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Progress:
    """How far training is and what it has learnt about itself.

    Attributes:
        step: Optimizer steps done.
        loss_sum: This rank's sum of batch losses since the epoch began (float64 scalar on the device).
        evaluation: The newest evaluation.
        best: The best evaluation on the validation split.
        history: One entry per finished epoch: its number, mean loss and step.
        patience: How long early stopping has waited.
        omissions: Steps that were not taken.
    """

    step: int
    loss_sum: Tensor
    evaluation: Evaluation | None = None
    best: Evaluation | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    patience: Patience = field(default_factory=Patience)
    omissions: Omissions = field(default_factory=Omissions)

    def to_facts(self) -> dict[str, Any]:
        """Return what is the same on every rank, as JSON types."""
        return {
            "step": self.step,
            "evaluation": self.evaluation.to_wire() if self.evaluation else None,
            "best": self.best.to_wire() if self.best else None,
            "history": list(self.history),
            "patience": asdict(self.patience),
            "omissions": asdict(self.omissions),
        }

    def restore_facts(self, facts: dict[str, Any]) -> None:
        """Put back what `to_facts` returned."""
        self.step = facts["step"]
        self.evaluation = Evaluation.model_validate(facts["evaluation"]) if facts["evaluation"] else None
        self.best = Evaluation.model_validate(facts["best"]) if facts["best"] else None
        self.history = list(facts["history"])
        self.patience = Patience(**facts["patience"])
        omissions = facts["omissions"]
        self.omissions = Omissions(**{**omissions, "holes": [(begin, end) for begin, end in omissions["holes"]]})


@dataclass(frozen=True)
class Snapshot:
    """A consistent copy of the state on the CPU, which no further step changes.

    Attributes:
        step: Optimizer steps done.
        model: Weights by name.
        optimizer: Optimizer state, flattened to `<parameter index>.<key>`.
        ranks: What belongs to each rank, packed (uint8), by rank number as text.
        extras: What else is state of the whole job, by name: averaged weights, the scale of the loss.
        facts: Everything else, as JSON types.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    ranks: dict[str, Tensor]
    extras: dict[str, Tensor]
    facts: dict[str, Any]


def pack_rank(progress: Progress) -> Tensor:
    """Return what belongs to this rank alone: its generators and its sum of losses, as bytes ([n] uint8)."""
    parts = [progress.loss_sum.detach().cpu().reshape(1).view(torch.uint8), torch.get_rng_state()]
    if progress.loss_sum.is_cuda:
        parts.append(torch.cuda.get_rng_state(progress.loss_sum.device))
    return torch.cat(parts)


def unpack_rank(packed: Tensor, progress: Progress) -> None:
    """Put back what `pack_rank` took."""
    cpu_bytes = torch.get_rng_state().numel()
    progress.loss_sum.copy_(packed[:_LOSS_BYTES].clone().view(torch.float64)[0])
    torch.set_rng_state(packed[_LOSS_BYTES : _LOSS_BYTES + cpu_bytes].clone())
    if progress.loss_sum.is_cuda and packed.numel() > _LOSS_BYTES + cpu_bytes:
        torch.cuda.set_rng_state(packed[_LOSS_BYTES + cpu_bytes :].clone(), progress.loss_sum.device)


def take_snapshot(
    model: nn.Module,
    optimizer: Optimizer,
    progress: Progress,
    ranks: list[Tensor],
    extras: dict[str, Tensor],
    facts: dict[str, Any],
) -> Snapshot:
    """Return a copy of the state. This is all the time that a checkpoint costs training.

    Raises:
        NonFiniteError: A weight is not a number; such a state is never worth keeping.
    """
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise NonFiniteError(f"weight {name} is not finite at step {progress.step}", NON_FINITE_HINT)
    facts = facts | progress.to_facts()
    return Snapshot(
        step=progress.step,
        model={name: _copy(value) for name, value in weights.items()},
        optimizer={
            f"{index}.{key}": _copy(value)
            for index, entries in optimizer.state_dict()["state"].items()
            for key, value in entries.items()
            if isinstance(value, Tensor)
        },
        ranks={str(rank): packed for rank, packed in enumerate(ranks)},
        extras={name: _copy(value) for name, value in extras.items()},
        facts=facts,
    )


def restore(snapshot: Snapshot, model: nn.Module, optimizer: Optimizer, progress: Progress, rank: int) -> bool:
    """Put a snapshot back.

    Returns:
        Whether this rank's generators were in it; they are not when the number of ranks has changed.

    Raises:
        UserError: The snapshot is of another model.
    """
    try:
        model.load_state_dict(snapshot.model)
    except RuntimeError as error:
        raise UserError(
            f"spec.model: the checkpoint of step {snapshot.step} holds another model: {str(error).splitlines()[-1]}",
            "a changed model needs a job of its own",
        ) from error
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in snapshot.optimizer.items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = value
    # The groups' own settings come from the spec; only what the optimizer has accumulated is state.
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    progress.restore_facts(snapshot.facts)
    packed = snapshot.ranks.get(str(rank))
    if packed is not None:
        unpack_rank(packed, progress)
    return packed is not None


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()
