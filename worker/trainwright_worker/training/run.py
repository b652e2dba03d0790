"""The state of a rank in training, assembled once."""

from dataclasses import dataclass, field

from torch import nn
from torch.optim import Optimizer

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.worker import WorkerConfig
from trainwright_worker.checkpoint.folder import CheckpointFolder
from trainwright_worker.checkpoint.state import TrainingProgress
from trainwright_worker.checkpoint.writer import Writer
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.data.loader import Loader
from trainwright_worker.data.sampler import Sampler
from trainwright_worker.distributed.group import Group
from trainwright_worker.distributed.placement import RankPlacement
from trainwright_worker.facts import Facts
from trainwright_worker.tasks.task import Task
from trainwright_worker.training.agenda import Agenda
from trainwright_worker.training.clock import Clock
from trainwright_worker.training.engine import Engine
from trainwright_worker.training.telemetry import Telemetry
from trainwright_worker.training.update import Update


@dataclass(frozen=True)
class Data:
    """The data of a rank.

    Attributes:
        dataset: The processed data.
        facts: Input shape, number of outputs and vocabulary size of the data.
        sampler: Selects the samples of each step.
        loader: The batches of the training split.
    """

    dataset: Dataset
    facts: Facts
    sampler: Sampler
    loader: Loader


@dataclass(frozen=True)
class Learner:
    """The model of a rank, and the objects that train it.

    Attributes:
        task: The task of the model.
        model: The unwrapped model.
        optimizer: The optimizer.
        engine: Runs batches through the model.
        update: Takes the steps.
    """

    task: Task
    model: nn.Module
    optimizer: Optimizer
    engine: Engine
    update: Update


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a rank.

    Attributes:
        folder: The checkpoints of the job.
        writer: Writes them in the background.
    """

    folder: CheckpointFolder
    writer: Writer


@dataclass
class Run:
    """A rank in training.

    Attributes:
        config: The worker's config.
        placement: The placement of this rank.
        group: All ranks.
        data: The data.
        learner: The model, and the objects that train it.
        checkpoints: The checkpoints.
        telemetry: Log, reports and metrics.
        agenda: The planned pauses.
        progress: The progress of training.
        clock: Times of events in this launch.
        saved_step: Step of the latest checkpoint that was started or resumed from.
        reserved: Whether memory for the first save has been requested.
        stop_requested: Whether this worker was told to stop.
        step_ends: End times of the steps since the last meeting; empty without Prometheus metrics.
    """

    config: WorkerConfig
    placement: RankPlacement
    group: Group
    data: Data
    learner: Learner
    checkpoints: Checkpoints
    telemetry: Telemetry
    agenda: Agenda
    progress: TrainingProgress
    clock: Clock = field(default_factory=Clock)
    saved_step: int = -1
    reserved: bool = False
    stop_requested: bool = False
    step_ends: list[float] = field(default_factory=list)

    @property
    def spec(self) -> TrainingJobSpec:
        """The job."""
        return self.config.spec
