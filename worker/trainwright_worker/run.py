"""Everything a rank needs to train, gathered once: the data, the model, the state, and who is to be told."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.training import Precision
from trainwright.api.status import Checkpoint
from trainwright.api.worker import WorkerConfig, WorkerPhase
from trainwright_worker.agenda import Agenda, make_agenda
from trainwright_worker.batch import Batch, run_model
from trainwright_worker.checkpoint import CheckpointFolder, Files, Writer, decode
from trainwright_worker.console import say
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.data.load import load
from trainwright_worker.data.loader import Loader
from trainwright_worker.data.sampler import Sampler
from trainwright_worker.distributed import Group, seed_everything
from trainwright_worker.errors import DataError
from trainwright_worker.evaluate import Forward
from trainwright_worker.losses import make_loss, make_penalty
from trainwright_worker.metrics import Metrics
from trainwright_worker.models.build import build
from trainwright_worker.models.pretrained import load_pretrained
from trainwright_worker.optim import make_optimizer
from trainwright_worker.place import Place
from trainwright_worker.report import Pulse, Reporter
from trainwright_worker.results import check_rows
from trainwright_worker.state import Progress, Snapshot, restore
from trainwright_worker.tracking.tracking import Tracking

Objective = Callable[[Batch], Tensor]
"""Maps a batch to the loss to minimise, a scalar with a gradient."""

COMMUTING_RANKS = 2


@dataclass
class Clock:
    """When things happened in this launch, on the monotonic clock, in seconds.

    Attributes:
        measured_from: When the throughput began to be measured; None until the first, slow step is over.
        measured_samples: Samples seen by then.
        measured_step: Steps done by then.
        met: When the ranks last met.
        met_step: Steps done by then.
        saved: When the last checkpoint was begun.
        logged: When the last progress line was printed.
        loss_sum: Sum of the mean losses since the epoch began, as known at the last meeting.
        loss_steps: Steps in that sum.
    """

    measured_from: float | None = None
    measured_samples: int = 0
    measured_step: int = 0
    met: float = 0.0
    met_step: int = 0
    saved: float = 0.0
    logged: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0


@dataclass
class Run:
    """A rank in training.

    Attributes:
        config: The worker's config.
        place: Where this rank stands.
        group: All ranks.
        dataset: The data as the model sees it.
        loader: The batches of the training split.
        model: The model without any wrapper.
        forward: Its forward pass in the precision of the job, for evaluation.
        objective: The loss of a batch, through the wrapper that averages gradients over ranks.
        optimizer: The optimizer.
        sampler: Which samples make up a step.
        agenda: When to pause.
        progress: How far training is.
        checkpoints: Where checkpoints lie.
        writer: What writes them.
        pulse: This rank's sign of life.
        reporter: What tells the operator; on rank 0 only.
        metrics: What tells Prometheus, if configured.
        clock: When things happened.
        saved_step: Step of the newest checkpoint begun or resumed from.
        stop_requested: Whether this worker was told to stop.
        step_ends: When each step since the last meeting ended; filled only if there are metrics.
        tracking: What records the course of training; on rank 0 only.
    """

    config: WorkerConfig
    place: Place
    group: Group
    dataset: Dataset
    loader: Loader
    model: nn.Module
    forward: Forward
    objective: Objective
    optimizer: Optimizer
    sampler: Sampler
    agenda: Agenda
    progress: Progress
    checkpoints: CheckpointFolder
    writer: Writer
    pulse: Pulse
    reporter: Reporter | None
    metrics: Metrics | None
    clock: Clock = field(default_factory=Clock)
    saved_step: int = -1
    stop_requested: bool = False
    step_ends: list[float] = field(default_factory=list)
    tracking: Tracking | None = None

    @property
    def spec(self) -> TrainingJobSpec:
        """The job."""
        return self.config.spec

    def tell(self, **changes: object) -> None:
        """Change fields of the report, and record what they measure; does nothing on ranks that do not report."""
        if self.reporter is not None:
            self.reporter.update(**changes)
        if self.tracking is not None:
            self.tracking.hear(changes)

    def warn(self, text: str) -> None:
        """Say something that a person should know although training goes on: in the log and in the report."""
        self.log(text)
        if self.reporter is not None:
            said = self.reporter.report.message
            self.reporter.update(message=f"{said}; {text}"[:1024] if said else text[:1024])

    def log(self, text: str) -> None:
        """Print a line, on rank 0 only."""
        if self.place.leads:
            say(f"rank {self.place.rank}", text)


def prepare(
    config: WorkerConfig,
    place: Place,
    group: Group,
    pulse: Pulse,
    reporter: Reporter | None,
    metrics: Metrics | None,
    scratch: Path | None = None,
) -> Run:
    """Read the data, build the model, and put back the newest checkpoint if there is one.

    Args:
        config: The worker's config.
        place: Where this rank stands.
        group: All ranks.
        pulse: This rank's sign of life.
        reporter: What tells the operator; on rank 0 only.
        metrics: What tells Prometheus, if configured.
        scratch: Folder that the ranks of this machine share, for what is derived from the data.

    Raises:
        DataError: The data is not what the spec says.
        UserError: The parts of the spec do not fit each other or the data.
    """
    spec = config.spec
    folder = CheckpointFolder(config.job_folder, spec.checkpoint.keep)
    snapshot, note = _load(folder, group)
    dataset = load(spec, config.data_root, group, None if snapshot is None else snapshot.facts["data"], scratch)
    check_rows(spec.prediction, dataset.facts.shape)

    torch.manual_seed(spec.training.seed)  # The same first weights on every rank, before the ranks' seeds part.
    model = build(spec, dataset.facts, config.data_root)
    # A resumed job has weights of its own.
    start = load_pretrained(model, spec, dataset.facts, config.data_root) if snapshot is None else []
    model = model.to(group.device)
    optimizer = make_optimizer(spec.optimizer, model.parameters())
    sampler = Sampler(
        len(dataset.splits.train), spec.training.global_batch_size, group.rank, group.size, spec.training.seed
    )
    seed_everything(spec.training.seed, group.rank)
    progress = Progress(step=0, loss_sum=torch.zeros((), dtype=torch.float64, device=group.device))
    if snapshot is not None:
        _restore(snapshot, model, optimizer, progress, sampler)
    agenda = make_agenda(spec, sampler.steps_per_epoch)
    forward, objective = _make_passes(spec, model, group)
    loader = Loader(dataset.splits.train, sampler, group.device)
    writer = Writer(folder, _announce_checkpoints(folder, reporter, metrics))
    run = Run(
        config, place, group, dataset, loader, model, forward, objective, optimizer, sampler, agenda, progress, folder,
        writer, pulse, reporter, metrics,
    )  # fmt: skip
    run.saved_step = -1 if snapshot is None else snapshot.step
    for said in start:
        run.log(said)
    _say_where_we_are(run, snapshot, note)
    return run


def _load(folder: CheckpointFolder, group: Group) -> tuple[Snapshot | None, str]:
    """Return the newest valid snapshot, found by rank 0 and sent to all, and what rank 0 has to say about others."""
    found, note = None, ""
    if group.rank == 0:
        folder.clear_unfinished()
        newest = folder.find_newest()
        note = "; ".join(newest.skipped)
        found = newest.files
    if group.size == 1:
        return (decode(found) if found is not None else None), note
    received: Files = {}
    names = group.broadcast(None if found is None else "\n".join(found).encode())
    for name in names.decode().split("\n") if names is not None else ():
        received[name] = group.broadcast(found[name] if found is not None else None) or b""
    return (decode(received) if names is not None else None), note


def _restore(snapshot: Snapshot, model: nn.Module, optimizer: Optimizer, progress: Progress, sampler: Sampler) -> None:
    samples = snapshot.facts["trainSamples"]
    if samples != sampler.samples:
        raise DataError(
            f"spec.dataset: the training split has {sampler.samples} samples, but the checkpoint of step "
            f"{snapshot.step} was made with {samples}",
            "put the data back as it was, or start a new job",
        )
    if not restore(snapshot, model, optimizer, progress, sampler.rank):
        say(f"rank {sampler.rank}", "the number of ranks has changed: random generators start anew")


def _make_passes(spec: TrainingJobSpec, model: nn.Module, group: Group) -> tuple[Forward, Objective]:
    """Return the forward pass for evaluation and the objective for training."""
    loss, penalty = make_loss(spec.loss_name), make_penalty(spec.regularization, model.parameters())
    trained: nn.Module = model
    if group.size > 1:
        # Looking for unused parameters keeps DDP from regrouping gradients after the first step of a launch, which
        # would make the order of their summation depend on when the job was interrupted. Two ranks sum in any order.
        fixed_order = spec.training.deterministic and group.size > COMMUTING_RANKS
        trained = DistributedDataParallel(model, gradient_as_bucket_view=True, find_unused_parameters=fixed_order)
    if spec.training.precision == Precision.FP32:
        if penalty is None:
            return partial(run_model, model), lambda batch: loss(run_model(trained, batch), batch)
        return partial(run_model, model), lambda batch: loss(run_model(trained, batch), batch) + penalty()
    autocast = torch.autocast(group.device.type, torch.bfloat16)

    def forward(batch: Batch) -> Tensor:
        with autocast:
            outputs = run_model(model, batch)
        return outputs.float()

    def objective(batch: Batch) -> Tensor:
        with autocast:
            outputs = run_model(trained, batch)
        value = loss(outputs.float(), batch)
        return value if penalty is None else value + penalty()

    return forward, objective


def _announce_checkpoints(
    folder: CheckpointFolder, reporter: Reporter | None, metrics: Metrics | None
) -> Callable[[Checkpoint], None]:
    def announce(saved: Checkpoint) -> None:
        if reporter is not None:
            reporter.update(checkpoints=folder.list_verified())
        if metrics is not None:
            metrics.observe_checkpoint(saved.step, saved.saved_at.timestamp())

    return announce


def _say_where_we_are(run: Run, snapshot: Snapshot | None, note: str) -> None:
    step = run.progress.step
    run.pulse.step = step
    run.tell(
        resumed_from_step=None if snapshot is None else snapshot.step,
        message=note[:1024],
        step=step,
        total_steps=run.agenda.total_steps,
        epoch=step // run.agenda.steps_per_epoch,
        total_epochs=run.spec.training.epochs,
        samples=run.sampler.samples_before(step),
        evaluation=run.progress.evaluation,
        best=run.progress.best,
        checkpoints=run.checkpoints.list_verified() if run.place.leads else [],
        phase=WorkerPhase.TRAINING,
    )
    if note:
        run.log(note)
    weights = sum(parameter.numel() for parameter in run.model.parameters())
    start = "from scratch" if snapshot is None else f"from the checkpoint of step {snapshot.step}"
    run.log(
        f"training {weights:,} weights on {len(run.dataset.splits.train):,} samples, {run.agenda.total_steps:,} steps of "
        f"{run.sampler.batch} samples, {run.group.size} process(es) on {run.group.device}, {start}"
    )
