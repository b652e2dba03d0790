"""Starts from the output of another job: a checkpoint, its results, or any safetensors file of weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from torch import nn
from torch.optim import Optimizer

from trainwright.api.names import SUMMARY_FILE, WEIGHTS_FILE
from trainwright.api.spec import StartFromSpec
from trainwright.api.spec.paths import is_uri
from trainwright.api.worker import WorkerConfig
from trainwright_worker.checkpoint.folder import PARENT, CheckpointFolder, Found, checkpoint_name
from trainwright_worker.checkpoint.manifest import MANIFEST, Manifest
from trainwright_worker.checkpoint.resume import Source, difference, make_optimizer_state, send, set_optimizer_state
from trainwright_worker.checkpoint.state import named_weights
from trainwright_worker.checkpoint.tensors import read_header
from trainwright_worker.console import say
from trainwright_worker.distributed.group import Group
from trainwright_worker.distributed.parallel import is_sharded
from trainwright_worker.errors import InfrastructureError, UserError
from trainwright_worker.storage import Storage, open_storage, read

_SUFFIX: Final = ".safetensors"
_FIELD: Final = "spec.startFrom.path"

DataCheck = Callable[[Any, str, str], str]
"""Compares the data of this job with the other job's record of its data, see `start_from`."""


def start_from(
    spec: StartFromSpec, config: WorkerConfig, check: DataCheck, model: nn.Module, optimizer: Optimizer, group: Group
) -> tuple[str, str]:
    """Load another job's weights into the model, and its optimizer state if the spec says so.

    All ranks must call this. If the model is sharded, all of them must have access to the path.

    Args:
        spec: The path, and whether to load the optimizer state.
        config: The worker's config.
        check: Called with the other job's record of its data (None if it has none), its path and the field that names
            it. Returns a warning, or an empty string; raises UserError if the weights do not suit this job's data.
        model: The unwrapped model, sharded or not.
        optimizer: The optimizer of the model.
        group: All ranks.

    Returns:
        A line for the log, and a warning (empty if there is none).

    Raises:
        UserError: There is nothing to start from, or it belongs to another model or optimizer, or to other data.
    """
    place = _resolve(spec.path, config)
    everywhere = is_sharded(config.spec, group.size)
    storage, found = _locate(place) if everywhere or group.rank == 0 else (open_storage(place), None)
    found = found if everywhere else send(found, group)
    if found is None:
        raise UserError(f"{_FIELD}: {spec.path} contains nothing to start from")
    problem = difference(found.manifest, model)
    if problem:
        raise UserError(
            f"{_FIELD}: {spec.path} contains another model: {problem}", "use the same model, or spec.model.pretrained"
        )
    warning = check(found.facts.get("data"), spec.path, _FIELD)
    targets = {f"model.{name}": value for name, value in named_weights(model).items()}
    states = {}
    if spec.optimizer:
        _check_optimizer(found, config)
        states = make_optimizer_state(found.manifest, model)
        targets |= {f"optimizer.{name}.{key}": value for name, held in states.items() for key, value in held.items()}
    Source(storage, found, everywhere).fill(targets, group)
    if states:
        set_optimizer_state(model, optimizer, states)
    taken = "weights and optimizer" if states else "weights"
    return f"starting at step 0 with the {taken} of {spec.path}", warning


def take_over(spec: StartFromSpec, config: WorkerConfig, folder: CheckpointFolder, group: Group) -> None:
    """Copy the newest checkpoint of another job to this job's folder, and its best one if that is kept. All ranks must call this.

    Args:
        spec: The path.
        config: The worker's config.
        folder: The checkpoints of this job.
        group: All ranks.

    Raises:
        UserError: There is no checkpoint at the path.
        InfrastructureError: The checkpoint cannot be copied.
    """
    if group.rank == 0:
        place = _resolve(spec.path, config)
        storage, found = _locate(place)
        if not found.folder:
            raise UserError(f"{_FIELD}: {spec.path} contains no checkpoint to resume from", "name the folder of a job")
        best = found.manifest.best_step if config.spec.checkpoint.keep_best else None
        others = [] if best in (None, found.manifest.step) else [_beside(storage, found, best)]
        try:
            # The newest comes first, because a job that is interrupted here resumes from what it finds.
            for each in (found, *filter(None, others)):
                folder.copy(storage, each)
        except OSError as error:
            raise InfrastructureError(f"{_FIELD}: the checkpoint in {place} cannot be copied: {error}") from error
        say("rank 0", f"the checkpoint of step {found.manifest.step} was copied from {place}")
    group.wait_for_leader()


def _resolve(path: str, config: WorkerConfig) -> str:
    """Return the full path or URI; a relative path must stay inside the root of the checkpoints."""
    if is_uri(path) or path.startswith("/"):
        return path.rstrip("/")
    root = config.spec.checkpoint.uri or config.checkpoint_root
    place = f"{root.rstrip('/')}/{path.rstrip('/')}"
    if not is_uri(root) and not Path(place).resolve().is_relative_to(Path(root).resolve()):
        raise UserError(f"{_FIELD}: {path} points outside the root of the checkpoints", "use a path below it")
    return place


def _locate(place: str) -> tuple[Storage, Found]:
    """Return what to start from, and the storage that its folder is relative to."""
    parent, _, name = place.rpartition("/")
    above = open_storage(parent)
    try:
        if name.endswith(_SUFFIX):
            return above, _describe_file(above, name)
        inside = above.list(name)
        if MANIFEST in inside:
            found, reason = CheckpointFolder(above, keep=1).verify(name)
            if found is None:
                raise UserError(f"{_FIELD}: {place} is damaged: {reason}")
            return above, found
        storage = open_storage(place)
        if WEIGHTS_FILE in inside:
            return storage, _describe_file(storage, WEIGHTS_FILE)
        if PARENT in inside:
            found, skipped = CheckpointFolder(storage, keep=1).find_newest()
            if found is not None:
                return storage, found
            raise UserError(f"{_FIELD}: {place} contains no valid checkpoint: {'; '.join(skipped) or 'there is none'}")
        jobs = [job for job in inside if PARENT in storage.list(job)]
        if len(jobs) == 1:  # A local run keeps its job's folder next to the logs.
            return _locate(f"{place}/{jobs[0]}")
    except (OSError, ValueError) as error:
        raise UserError(f"{_FIELD}: {place} cannot be read: {error}") from error
    raise UserError(
        f"{_FIELD}: {place} is neither a checkpoint nor a results folder",
        "set it to a folder …/checkpoints/step-… or …/results, the folder of a job, or a safetensors file of weights",
    )


def _beside(storage: Storage, found: Found, step: int) -> Found | None:
    """Return the valid checkpoint of another step of the same job, or None."""
    parent, _, _ = found.folder.rpartition("/")
    return CheckpointFolder(storage, keep=1).verify(f"{parent}/{checkpoint_name(step)}".lstrip("/"))[0]


def _describe_file(storage: Storage, name: str) -> Found:
    tensors = {f"model.{key}": entry for key, entry in read_header(storage, name).items()}
    return Found("", Manifest(step=0, best_step=None, files={}, tensors=tensors), _read_summary(storage))


def _read_summary(storage: Storage) -> dict[str, Any]:
    """Return the summary that a job wrote beside its weights; empty if the weights do not come from a job."""
    try:
        summary: dict[str, Any] = json.loads(read(storage, SUMMARY_FILE))
    except FileNotFoundError:
        return {}
    return summary if isinstance(summary, dict) else {}


def _check_optimizer(found: Found, config: WorkerConfig) -> None:
    field, mine = "spec.startFrom.optimizer", str(config.spec.optimizer.name)
    if not found.manifest.names("optimizer"):
        raise UserError(f"{field}: true, but spec.startFrom.path contains no optimizer state", "remove it")
    theirs = found.facts.get("optimizer")
    if theirs != mine:
        raise UserError(
            f"{field}: true, but that checkpoint's optimizer is {theirs}, and this job's is {mine}", "remove it"
        )
