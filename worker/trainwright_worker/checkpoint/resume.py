"""Resumes from a checkpoint: finds it once for all ranks, and restores model, optimizer and progress."""

import json
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Optimizer

from trainwright_worker.checkpoint.folder import CheckpointFolder, Found
from trainwright_worker.checkpoint.manifest import DTYPES, Entry, Manifest
from trainwright_worker.checkpoint.state import TrainingProgress, named_weights, share_losses, unpack_rank
from trainwright_worker.checkpoint.tensors import read_tensors
from trainwright_worker.distributed.group import Group
from trainwright_worker.errors import UserError
from trainwright_worker.storage import Storage

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Source:
    """The source of tensors.

    Attributes:
        storage: The storage of the checkpoint.
        found: The checkpoint.
        everywhere: Whether every rank reads its own part from shared storage; otherwise rank 0 reads everything and
            broadcasts it.
    """

    storage: Storage
    found: Found
    everywhere: bool

    def fill(self, targets: Tensors, group: Group) -> None:
        """Fill tensors, which have the same names on all ranks. All ranks must call this."""
        if self.everywhere or group.rank == 0:
            read_tensors(self.storage, self.found.folder, self.found.manifest, targets)
        if not self.everywhere:
            # Sorted by name, because the order of a set of strings differs between processes.
            group.broadcast_tensors(target for _, target in sorted(targets.items()))


def find_newest(folder: CheckpointFolder, group: Group) -> tuple[Found | None, str]:
    """Return the newest valid checkpoint, the same on every rank, and the reasons why rank 0 skipped newer ones.

    All ranks must call this. Files of unfinished saves are removed.
    """
    found, skipped = folder.find_newest() if folder.shared or group.rank == 0 else (None, [])
    if group.rank == 0:
        folder.clear_unfinished()
    return (found if folder.shared else send(found, group)), "; ".join(skipped)


def find_step(folder: CheckpointFolder, step: int, group: Group) -> tuple[Found | None, str]:
    """Return the checkpoint of a step, the same on every rank, or the reason why rank 0 found none.

    All ranks must call this.
    """
    found, reason = folder.find(step) if folder.shared or group.rank == 0 else (None, "")
    return (found if folder.shared else send(found, group)), reason


def restore(
    folder: CheckpointFolder,
    found: Found,
    model: nn.Module,
    optimizer: Optimizer,
    progress: TrainingProgress,
    group: Group,
) -> Tensors:
    """Restore the whole state. All ranks must call this.

    Args:
        folder: The checkpoints of the job.
        found: The checkpoint.
        model: The unwrapped model, sharded or not.
        optimizer: The optimizer of the model.
        progress: Progress to restore.
        group: All ranks.

    Returns:
        The `extras` that `gather_state` saved; those that belong to a weight are sharded like the weight.

    Raises:
        UserError: The checkpoint belongs to another model.
    """
    manifest, step = found.manifest, found.manifest.step
    problem = difference(manifest, model)
    if problem:
        raise UserError(
            f"spec.model: the model differs from that of the checkpoint of step {step}: {problem}",
            "restore the previous spec.model, or create a new job for the changed model",
        )
    extras = _make_extras(manifest, model, group.device)
    states = make_optimizer_state(manifest, model)
    ranks = {f"ranks.{rank}": _empty(manifest.tensors[f"ranks.{rank}"], "cpu") for rank in manifest.names("ranks")}
    targets = _under("model", named_weights(model)) | _under("extras", extras) | ranks
    for name, entries in states.items():
        targets |= _under(f"optimizer.{name}", entries)
    Source(folder.storage, found, folder.shared).fill(targets, group)
    set_optimizer_state(model, optimizer, states)
    progress.restore_facts(found.facts)
    _restore_own(ranks, progress, group)
    return extras


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _restore_own(ranks: Tensors, progress: TrainingProgress, group: Group) -> None:
    """Restore this rank's own state. If the number of ranks has changed, take an equal share of the sums of losses."""
    packed = ranks.get(f"ranks.{group.rank}")
    if packed is not None:
        unpack_rank(packed, progress)
    if len(ranks) != group.size:
        share_losses(ranks.values(), progress)


def difference(manifest: Manifest, model: nn.Module) -> str:
    """Return the first difference in names or shapes between the weights of a checkpoint and a model; empty if none."""
    weights, saved = named_weights(model), manifest.names("model")
    for name in sorted(weights.keys() - saved):
        return f"the checkpoint has no weight {name}"
    for name in sorted(saved - set(model.state_dict())):
        return f"this model has no weight {name}"
    for name, weight in weights.items():
        shape = manifest.tensors[f"model.{name}"].shape
        if shape != list(weight.shape):
            return (
                f"weight {name} has shape {_shown(shape)} in the checkpoint, but {_shown(weight.shape)} in this model"
            )
    return ""


def make_optimizer_state(manifest: Manifest, model: nn.Module) -> dict[str, Tensors]:
    """Return empty tensors for the saved state of an optimizer, by weight and key, sharded like the weights."""
    saved = manifest.names("optimizer")
    states: dict[str, Tensors] = {}
    for name, weight in model.named_parameters():
        keys = [key.removeprefix(f"{name}.") for key in saved if key.startswith(f"{name}.")]
        # One weight's name may be a prefix of another's (`a` and `a.b`), but keys contain no dots.
        keys = [key for key in keys if "." not in key]
        states[name] = {key: _like(weight, manifest.tensors[f"optimizer.{name}.{key}"]) for key in sorted(keys)}
    return states


def set_optimizer_state(model: nn.Module, optimizer: Optimizer, states: dict[str, Tensors]) -> None:
    """Set the state of an optimizer; its settings, which come from the spec, do not change."""
    names = {weight: name for name, weight in model.named_parameters()}
    order = [weight for settings in optimizer.param_groups for weight in settings["params"]]
    entries = {index: states[names[weight]] for index, weight in enumerate(order) if states[names[weight]]}
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


def _make_extras(manifest: Manifest, model: nn.Module, device: torch.device) -> Tensors:
    """Return empty tensors for the extras; one whose name ends in that of a weight is sharded like the weight."""
    weights = dict(model.named_parameters())
    extras = {}
    for name in sorted(manifest.names("extras")):
        entry = manifest.tensors[f"extras.{name}"]
        weight = weights.get(name.partition(".")[2])
        extras[name] = _empty(entry, device) if weight is None else _like(weight, entry)
    return extras


def _like(weight: Tensor, entry: Entry) -> Tensor:
    """Return an empty tensor for state that belongs to a weight, on the device where an optimizer would create it."""
    dtype = DTYPES[entry.dtype]
    if not entry.shape:
        return _empty(entry, "cpu")
    if entry.shape == list(weight.shape):
        return torch.empty_like(weight, dtype=dtype, requires_grad=False)  # Also with the weight's memory format.
    if not isinstance(weight, DTensor):
        return _empty(entry, weight.device)
    whole = _empty(entry, weight.to_local().device)
    return DTensor.from_local(whole, weight.device_mesh, [Replicate()] * weight.device_mesh.ndim, run_check=False)


def _empty(entry: Entry, device: torch.device | str) -> Tensor:
    return torch.empty(entry.shape, dtype=DTYPES[entry.dtype], device=device)


def send(found: Found | None, group: Group) -> Found | None:
    """Broadcast the checkpoint that rank 0 has found, and return it on every rank."""
    if group.size == 1:
        return found
    content = None
    if found is not None:
        content = json.dumps([found.folder, found.manifest.to_wire(), found.facts]).encode()
    received = group.broadcast(content)
    if received is None:
        return None
    folder, manifest, facts = json.loads(received)
    return Found(folder, Manifest.model_validate(manifest), facts)


def _shown(shape: list[int] | torch.Size) -> str:
    return "x".join(str(size) for size in shape) or "a single number"
