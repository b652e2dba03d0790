"""The state of training: all that must be saved so that an interrupted run ends bit for bit like one that was not.

The position in the data and the learning rate are functions of the step, so they need no place of their own. What differs
between ranks (generators, the running sum of the loss) is packed per rank and gathered by rank 0.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainwright.api.status import Evaluation
from trainwright_worker.data.normalization import Normalization
from trainwright_worker.errors import NON_FINITE_HINT, NonFiniteError, UserError

_LOSS_BYTES = 8


@dataclass
class Progress:
    """How far training is and what it has learnt about itself.

    Attributes:
        step: Optimizer steps done.
        loss_sum: This rank's sum of batch losses since the epoch began (float64 scalar on the device).
        evaluation: The newest evaluation.
        best: The best evaluation on the validation split.
        history: One entry per finished epoch: its number, mean loss and step.
    """

    step: int
    loss_sum: Tensor
    evaluation: Evaluation | None = None
    best: Evaluation | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Snapshot:
    """A consistent copy of the state on the CPU, which no further step changes.

    Attributes:
        step: Optimizer steps done.
        model: Weights by name.
        optimizer: Optimizer state, flattened to `<parameter index>.<key>`.
        ranks: What belongs to each rank, packed (uint8), by rank number as text.
        facts: Everything else, as JSON types.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    ranks: dict[str, Tensor]
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
    model: nn.Module, optimizer: Optimizer, progress: Progress, ranks: list[Tensor], facts: dict[str, Any]
) -> Snapshot:
    """Return a copy of the state. This is all the time that a checkpoint costs training.

    Raises:
        NonFiniteError: A weight is not a number; such a state is never worth keeping.
    """
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise NonFiniteError(f"weight {name} is not finite at step {progress.step}", NON_FINITE_HINT)
    facts = facts | {
        "step": progress.step,
        "evaluation": progress.evaluation.to_wire() if progress.evaluation else None,
        "best": progress.best.to_wire() if progress.best else None,
        "history": list(progress.history),
    }
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
    facts = snapshot.facts
    progress.step = facts["step"]
    progress.evaluation = Evaluation.model_validate(facts["evaluation"]) if facts["evaluation"] else None
    progress.best = Evaluation.model_validate(facts["best"]) if facts["best"] else None
    progress.history = list(facts["history"])
    packed = snapshot.ranks.get(str(rank))
    if packed is not None:
        unpack_rank(packed, progress)
    return packed is not None


def normalization_of(snapshot: Snapshot) -> Normalization:
    """Return the scaling that the snapshot was trained with."""
    return Normalization.from_json(snapshot.facts["normalization"])


def _copy(value: Tensor) -> Tensor:
    return value.detach().to("cpu", copy=True).contiguous()
