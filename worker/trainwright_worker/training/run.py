"""A rank in training: everything it needs, gathered once."""

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
    """What a rank learns from.

    Attributes:
        dataset: The data as the model sees it.
        facts: What the model knows of it.
        sampler: Which samples make up a step.
        loader: The batches of the training split.
    """

    dataset: Dataset
    facts: Facts
    sampler: Sampler
    loader: Loader


@dataclass(frozen=True)
class Learner:
    """What learns.

    Attributes:
        task: What it learns to do.
        model: The model without any wrapper.
        optimizer: The optimizer.
        engine: What runs batches through the model.
        update: What takes the steps.
    """

    task: Task
    model: nn.Module
    optimizer: Optimizer
    engine: Engine
    update: Update


@dataclass(frozen=True)
class Checkpoints:
    """What is saved.

    Attributes:
        folder: Where checkpoints lie.
        writer: What writes them.
    """

    folder: CheckpointFolder
    writer: Writer


@dataclass
class Run:
    """A rank in training.

    Attributes:
        config: The worker's config.
        placement: Where this rank stands.
        group: All ranks.
        data: What it learns from.
        learner: What learns.
        checkpoints: What is saved.
        telemetry: Whom it tells.
        agenda: When to pause.
        progress: How far training is.
        clock: When things happened.
        saved_step: Step of the newest checkpoint begun or resumed from.
        reserved: Whether memory for the first save has been seen to.
        stop_requested: Whether this worker was told to stop.
        step_ends: When each step since the last meeting ended; filled only if there are metrics.
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
