"""Prepares a rank for training: reads the data, builds the model and restores the newest checkpoint."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainwright.api.figures import Preflight
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Checkpoint
from trainwright.api.worker import WorkerConfig, WorkerPhase
from trainwright_worker.checkpoint.folder import CheckpointFolder, Found
from trainwright_worker.checkpoint.resume import find_newest, find_step, restore
from trainwright_worker.checkpoint.start import start_from, take_over
from trainwright_worker.checkpoint.state import TrainingProgress
from trainwright_worker.checkpoint.writer import Writer
from trainwright_worker.console import say
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.data.load import load
from trainwright_worker.data.loader import Loader
from trainwright_worker.data.measured import compare
from trainwright_worker.data.sampler import Sampler, largest_pass
from trainwright_worker.distributed.group import Group, seed_everything
from trainwright_worker.distributed.parallel import is_sharded, parallelize
from trainwright_worker.distributed.placement import RankPlacement
from trainwright_worker.distributed.ranks import Ranks
from trainwright_worker.errors import DataError, UserError
from trainwright_worker.facts import Facts
from trainwright_worker.models.build import build, draws_layer_by_layer
from trainwright_worker.models.pretrained import load_pretrained
from trainwright_worker.models.recompute import enable_gradient_checkpointing
from trainwright_worker.optim.optimizer import make_optimizer
from trainwright_worker.optim.schedule import find_fault
from trainwright_worker.preflight.check import measure_job, refuse_if_too_large
from trainwright_worker.preflight.dry import CPU_SAMPLES, take_dry_step, uses_all_weights
from trainwright_worker.reporting.figures import make_scale
from trainwright_worker.reporting.metrics import Metrics
from trainwright_worker.reporting.pulse import Pulse, Tolerance, pause_while_compiling
from trainwright_worker.reporting.report import Reporter
from trainwright_worker.results.checks import check_outcome
from trainwright_worker.storage import check_storage, open_storage
from trainwright_worker.tasks.losses import Loss
from trainwright_worker.tasks.table import make_task
from trainwright_worker.tasks.task import Task
from trainwright_worker.training.agenda import make_agenda
from trainwright_worker.training.engine import Engine
from trainwright_worker.training.run import Checkpoints, Data, Learner, Run
from trainwright_worker.training.teacher import make_distilled
from trainwright_worker.training.telemetry import Telemetry
from trainwright_worker.training.update import Update


def prepare(
    config: WorkerConfig,
    placement: RankPlacement,
    group: Group,
    pulse: Pulse,
    reporter: Reporter | None,
    metrics: Metrics | None,
    scratch: Path | None = None,
) -> Run:
    """Read the data, build the model, and restore the newest checkpoint if there is one.

    Args:
        config: The worker's config.
        placement: The place of this rank among all ranks.
        group: All ranks.
        pulse: The memory in which this rank shows its agent that it makes progress.
        reporter: Sends reports to the operator; on rank 0 only.
        metrics: The Prometheus metrics, if configured.
        scratch: Folder that the ranks of this machine share, for files derived from the data.

    Raises:
        DataError: The data do not match the spec.
        UserError: Parts of the spec contradict each other or the data.
    """
    spec, task = config.spec, make_task(config.spec)
    folder = _open_checkpoints(config, group)
    found, note = find_newest(folder, group)
    if found is None and spec.start_from is not None and spec.start_from.resume:
        take_over(spec.start_from, config, folder, group)
        found, note = find_newest(folder, group)
    fresh = found is None
    dataset = load(spec, config.data_root, group, None if found is None else found.facts["data"], scratch)
    facts = task.facts(dataset)
    _check(config, task, dataset, facts, exports=group.rank == 0 and fresh)
    preflight = _run_preflight(config, placement, dataset, facts, reporter, fresh=fresh)
    torch.manual_seed(spec.training.seed)  # All ranks draw the same first weights. Their seeds differ only afterwards.
    model, origins = _build_model(spec, dataset, facts, config.data_root, group, fresh=fresh)
    group.wait_for_leader()  # Only rank 0 tries exports and runs the preflight.
    trained = parallelize(model, spec, group, complete=_is_complete(model, spec, dataset, group))
    optimizer = make_optimizer(spec.optimizer, model)
    sampler = _make_sampler(spec, dataset, group)
    agenda = make_agenda(spec, sampler.steps_per_epoch)
    seed_everything(spec.training.seed, group.rank)
    progress = TrainingProgress(step=0, loss_sum=torch.zeros((), dtype=torch.float64, device=group.device))
    extras: dict[str, Tensor] = {}
    notes = [note, *dataset.splits.notes, find_fault(spec.schedule, agenda.total_steps)]
    if found is not None:
        _check_samples(found, sampler)
        extras = restore(folder, found, model, optimizer, progress, group)
    elif spec.start_from is not None:
        origin, note = start_from(spec.start_from, config, partial(compare, dataset.measured), model, optimizer, group)
        origins.append(origin)
        notes.append(note)
    update = Update(spec, model, optimizer, agenda.total_steps, group.device)
    update.restore(extras)
    agenda.resume(progress)
    loss, note = _make_loss(config, task, dataset, facts, group)
    notes.append(note)
    engine = Engine(spec, model, trained, group, loss, update.scaler, largest_pass(spec, sampler.batch))
    if fresh and not (spec.start_from is not None and spec.start_from.optimizer):
        preflight = _take_dry_step(dataset, model, engine, optimizer, preflight)
    if spec.training.compile:
        pause_while_compiling(pulse)
    scale = make_scale(spec, facts, preflight, group.device, group.size)
    run = Run(
        config,
        placement,
        group,
        Data(dataset, facts, sampler, Loader(dataset.splits.train, sampler, group.device)),
        Learner(task, model, optimizer, engine, update),
        Checkpoints(folder, Writer(folder, _announce_checkpoints(reporter, metrics))),
        Telemetry(placement, pulse, Tolerance(spec.health.hang), reporter, metrics, scale),
        agenda,
        progress,
    )
    run.saved_step = -1 if found is None else found.manifest.step
    run.telemetry.report(preflight=preflight)
    _report_start(run, found, origins, [note for note in notes if note])
    return run


def take_best(run: Run) -> int:
    """Load the weights of the best evaluation into the model, if they are kept, and return their step.

    The progress of training does not change. All ranks must call this, after all checkpoints are written.
    """
    step, best = run.progress.step, run.progress.best
    if not run.spec.checkpoint.keep_best or best is None or best.step == step:
        return step
    found, reason = find_step(run.checkpoints.folder, best.step, run.group)
    if found is None:
        run.telemetry.warn(
            f"results are of the last step, {step}: the checkpoint of the best, {best.step}, cannot be used: {reason}"
        )
        return step
    there = TrainingProgress(step=0, loss_sum=torch.zeros_like(run.progress.loss_sum))
    run.learner.update.restore(
        restore(run.checkpoints.folder, found, run.learner.model, run.learner.optimizer, there, run.group)
    )
    run.telemetry.warn(f"results are of step {best.step}, the best evaluation, not of the last step, {step}")
    return best.step


def _build_model(
    spec: TrainingJobSpec, dataset: Dataset, facts: Facts, root: str, group: Group, *, fresh: bool
) -> tuple[nn.Module, list[str]]:
    """Return the model, and lines about the origin of its weights.

    The model is on the host, or on the meta device if it will be sharded and can initialize its weights layer by layer.
    """
    later = is_sharded(spec, group.size) and draws_layer_by_layer(spec.model)
    with torch.device("meta") if later else nullcontext():
        model = build(spec, facts, root)
    # A resumed job takes its weights from the checkpoint.
    origins = load_pretrained(model, spec, facts, root, dataset.classes) if fresh else []
    if spec.training.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    return model, origins


def _is_complete(model: nn.Module, spec: TrainingJobSpec, dataset: Dataset, group: Group) -> bool:
    """Return whether every weight is known to get a gradient. This matters only under DDP, which waits for all gradients."""
    if group.size == 1 or is_sharded(spec, group.size):
        return True
    return uses_all_weights(model, dataset.splits.train.take(torch.arange(CPU_SAMPLES), 0))


def _run_preflight(
    config: WorkerConfig,
    placement: RankPlacement,
    dataset: Dataset,
    facts: Facts,
    reporter: Reporter | None,
    *,
    fresh: bool,
) -> Preflight | None:
    """Measure the job on rank 0. A resumed job is measured only on a GPU, where its FLOPs are needed for the MFU.

    Raises:
        OutOfMemoryError: The job does not fit into memory.
        UserError: The model does not fit the data.
    """
    if reporter is None or not (fresh or torch.cuda.is_available()):
        return None
    preflight, lines = measure_job(config.spec, dataset, facts, config.data_root, placement)
    for line in lines:
        say(f"rank {placement.rank}", line)
    if preflight is not None:
        reporter.update(preflight=preflight)
        if not preflight.fits:
            reporter.close()  # Sends this last report.
        refuse_if_too_large(preflight)
    return preflight


def _take_dry_step(
    dataset: Dataset,
    model: nn.Module,
    engine: Engine,
    optimizer: Optimizer,
    preflight: Preflight | None,
) -> Preflight | None:
    """Take a step with a few samples that changes nothing; on a GPU with a whole micro-batch, to use as much memory."""
    samples = min(engine.micro or len(dataset.splits.train), len(dataset.splits.train))
    if engine.device.type == "cpu":
        samples = min(samples, CPU_SAMPLES)
    batch = dataset.splits.train.take(torch.arange(samples), 0).to(engine.device)
    seconds = take_dry_step(model, engine.forward, engine.loss.mean, optimizer, batch)
    return None if preflight is None else preflight.changed(dry_step_seconds=seconds)


def _make_loss(config: WorkerConfig, task: Task, dataset: Dataset, facts: Facts, group: Group) -> tuple[Loss, str]:
    """Return the loss, and a note for the user, which may be empty."""
    loss = task.loss(facts)
    if config.spec.distillation is None:
        return loss, ""
    return make_distilled(config.spec, dataset, facts, config.data_root, group.device, loss)


def _open_checkpoints(config: WorkerConfig, group: Group) -> CheckpointFolder:
    """Return the job's checkpoint folder; under DDP only rank 0 uses it."""
    spec, storage = config.spec, open_storage(config.job_folder)
    if group.rank == 0:
        check_storage(storage, "spec.checkpoint")
    ranks = Ranks(group.rank, group.size) if is_sharded(spec, group.size) else Ranks()
    return CheckpointFolder(storage, spec.checkpoint.keep, ranks, keep_best=spec.checkpoint.keep_best)


def _check_samples(found: Found, sampler: Sampler) -> None:
    samples = found.facts["trainSamples"]
    if samples != sampler.samples:
        raise DataError(
            f"spec.dataset: the training split has {sampler.samples} samples, but the checkpoint of step "
            f"{found.manifest.step} was made with {samples}",
            "restore the former data, or start a new job",
        )


def _make_sampler(spec: TrainingJobSpec, dataset: Dataset, group: Group) -> Sampler:
    samples = len(dataset.splits.train)
    batch = samples if spec.training.full_batch else spec.training.global_batch_size
    return Sampler(samples, batch, group.rank, group.size, spec.training.seed, dataset.blocks)


def _check(config: WorkerConfig, task: Task, dataset: Dataset, facts: Facts, *, exports: bool) -> None:
    """Check the parts of the spec that depend on the data.

    Args:
        config: The worker's config.
        task: The task.
        dataset: The data.
        facts: Input shape, number of outputs and vocabulary size of the data.
        exports: Whether to try exports: once per job, on the rank that writes them.

    Raises:
        UserError: The spec asks for something that the data do not allow.
    """
    spec = config.spec
    task.check(facts)
    if spec.training.early_stopping is not None and dataset.splits.validation is None:
        raise UserError(
            "spec.training.earlyStopping: needs a validation split, but the data has none",
            "hold some out with spec.dataset.split.validation",
        )
    check_outcome(spec, config.job_folder, config.data_root, dataset, facts, exports=exports)


def _announce_checkpoints(reporter: Reporter | None, metrics: Metrics | None) -> Callable[[list[Checkpoint]], None]:
    def announce(complete: list[Checkpoint]) -> None:
        if reporter is not None:
            reporter.update(checkpoints=complete)
        if metrics is not None:
            metrics.observe_checkpoint(complete[-1].step, complete[-1].saved_at.timestamp())

    return announce


def _report_start(run: Run, found: Found | None, origins: list[str], notes: list[str]) -> None:
    step = run.progress.step
    run.telemetry.pulse.step = step
    for line in origins:
        run.telemetry.log(line)
    for note in notes:
        run.telemetry.warn(note)
    run.telemetry.report(
        resumed_from_step=None if found is None else found.manifest.step,
        step=step,
        total_steps=run.agenda.total_steps,
        epoch=step // run.agenda.steps_per_epoch,
        total_epochs=run.spec.training.epochs,
        samples=run.data.sampler.samples_before(step),
        evaluation=run.progress.evaluation,
        best=run.progress.best,
        checkpoints=run.checkpoints.folder.list_complete() if run.placement.leads else [],
        phase=WorkerPhase.TRAINING,
    )
    weights = sum(parameter.numel() for parameter in run.learner.model.parameters())
    trained = sum(parameter.numel() for parameter in run.learner.model.parameters() if parameter.requires_grad)
    share = "" if trained == weights else f"{trained:,} of "
    start = "from these weights" if origins else "from scratch"
    if found is not None:
        start = f"from the checkpoint of step {found.manifest.step}"
    run.telemetry.log(
        f"training {share}{weights:,} weights on {len(run.data.dataset.splits.train):,} samples, {run.agenda.total_steps:,} steps of "
        f"{run.data.sampler.batch} samples, {run.group.size} process(es) on {run.group.device}, {start}"
    )
