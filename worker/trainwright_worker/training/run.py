"""A rank in training: everything it needs, gathered once, and who is to be told."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from torch import nn
from torch.optim import Optimizer

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.worker import WorkerConfig
from trainwright_worker.checkpoint.folder import CheckpointFolder
from trainwright_worker.checkpoint.state import TrainingProgress
from trainwright_worker.checkpoint.writer import Writer
from trainwright_worker.console import say
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.data.loader import Loader
from trainwright_worker.data.sampler import Sampler
from trainwright_worker.distributed.group import Group
from trainwright_worker.distributed.placement import RankPlacement
from trainwright_worker.reporting.activity import Activity
from trainwright_worker.reporting.figures import Scale
from trainwright_worker.reporting.metrics import Metrics
from trainwright_worker.reporting.pulse import Pulse, Tolerance
from trainwright_worker.reporting.report import Reporter
from trainwright_worker.tracking.tracking import Tracking
from trainwright_worker.training.agenda import Agenda
from trainwright_worker.training.clock import Clock
from trainwright_worker.training.evaluate import Forward
from trainwright_worker.training.passes import Passes
from trainwright_worker.training.update import Update


@dataclass
class Run:
    """A rank in training.

    Attributes:
        config: The worker's config.
        placement: Where this rank stands.
        group: All ranks.
        dataset: The data as the model sees it.
        loader: The batches of the training split.
        model: The model without any wrapper.
        passes: What a batch goes through.
        update: What takes the steps.
        optimizer: The optimizer.
        sampler: Which samples make up a step.
        agenda: When to pause.
        progress: How far training is.
        checkpoints: Where checkpoints lie.
        writer: What writes them.
        pulse: This rank's sign of life.
        tolerance: How long it may go without a step.
        reporter: What tells the operator; on rank 0 only.
        metrics: What tells Prometheus, if configured.
        scale: What turns steps per second into other figures.
        clock: When things happened.
        saved_step: Step of the newest checkpoint begun or resumed from.
        reserved: Whether memory for the first save has been seen to.
        stop_requested: Whether this worker was told to stop.
        step_ends: When each step since the last meeting ended; filled only if there are metrics.
        tracking: What records the course of training; on rank 0 only.
        notes: What a person should know, by topic.
    """

    config: WorkerConfig
    placement: RankPlacement
    group: Group
    dataset: Dataset
    loader: Loader
    model: nn.Module
    passes: Passes
    update: Update
    optimizer: Optimizer
    sampler: Sampler
    agenda: Agenda
    progress: TrainingProgress
    checkpoints: CheckpointFolder
    writer: Writer
    pulse: Pulse
    tolerance: Tolerance
    reporter: Reporter | None
    metrics: Metrics | None
    scale: Scale
    clock: Clock = field(default_factory=Clock)
    saved_step: int = -1
    reserved: bool = False
    stop_requested: bool = False
    step_ends: list[float] = field(default_factory=list)
    tracking: Tracking | None = None
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> TrainingJobSpec:
        """The job."""
        return self.config.spec

    @property
    def forward(self) -> Forward:
        """The model's forward pass in the precision of the job, for everything but training."""
        return self.passes.forward

    def tell(self, **changes: object) -> None:
        """Change fields of the report, and record what they measure; does nothing on ranks that do not report."""
        if self.reporter is not None:
            self.reporter.update(**changes)
        if self.tracking is not None:
            self.tracking.hear(changes)

    def charge(self, activity: Activity) -> AbstractContextManager[None]:
        """Charge the time inside to an activity, in the job's goodput."""
        return nullcontext() if self.reporter is None else self.reporter.activities.during(activity)

    def warn(self, text: str, topic: str | None = None) -> None:
        """Say something that a person should know although training goes on: in the log and in the report.

        Args:
            text: What to say.
            topic: Replaces what was said before on the same topic.
        """
        self.log(text)
        self.notes[topic or text] = text
        if self.reporter is not None:
            self.reporter.update(message="; ".join(self.notes.values())[:1024])

    def log(self, text: str) -> None:
        """Print a line, on rank 0 only."""
        if self.placement.leads:
            say(f"rank {self.placement.rank}", text)
