"""The recipe: the part of a job that defines what is trained and how."""

from collections.abc import Callable, Iterable

from pydantic import Field

from trainwright.api.base import Model
from trainwright.api.spec.checkpoint import Parallelism, StartFromSpec
from trainwright.api.spec.code import CodeSpec
from trainwright.api.spec.dataset import DatasetSpec
from trainwright.api.spec.evaluation import EvaluationSpec, MetricName
from trainwright.api.spec.model import ModelSpec
from trainwright.api.spec.objective import DistillationSpec, LossName, LossSpec, RegularizationSpec
from trainwright.api.spec.optimization import OptimizerSpec, ScheduleSpec
from trainwright.api.spec.outcome import ExplanationSpec, ExportSpec, GenerationSpec, PredictionSpec, TrackingSpec
from trainwright.api.spec.task import TASKS, TaskName, TaskTraits
from trainwright.api.spec.training import TrainingSpec


def by_task_text(choices: Callable[[TaskTraits], Iterable[str]], verb: str) -> str:
    """Return the choices of each task as a phrase for a message."""
    return "; ".join(f"{task} {verb} {', '.join(choices(traits))}" for task, traits in TASKS.items())


class Recipe(Model):
    """What to train, on what, and how."""

    model: ModelSpec = Field(description="The model to train.")
    code: CodeSpec | None = Field(None, description="The folder with the modules of model.class and loss.function.")
    dataset: DatasetSpec = Field(description="The data to train on.")
    task: TaskName = Field(
        TaskName.CLASSIFICATION,
        description="; ".join(f"{task} ({traits.summary})" for task, traits in TASKS.items()) + ".",
    )
    optimizer: OptimizerSpec = Field(OptimizerSpec(), description="The optimizer; Adam at 0.001 by default.")
    schedule: ScheduleSpec = Field(ScheduleSpec(), description="The learning-rate schedule; constant by default.")
    loss: LossSpec | None = Field(
        None,
        description="The loss; by default " + by_task_text(lambda traits: traits.losses[:1], "has") + ".",
    )
    regularization: RegularizationSpec = Field(RegularizationSpec(), description="L1, L2 and dropout.")
    distillation: DistillationSpec | None = Field(None, description="A teacher model to learn from.")
    training: TrainingSpec = Field(description="How long to train and in what batches.")
    evaluation: EvaluationSpec = Field(EvaluationSpec(), description="When to evaluate on the validation split.")
    prediction: PredictionSpec | None = Field(None, description="Predictions to write after training.")
    generation: GenerationSpec | None = Field(None, description="Texts to generate after training.")
    export: ExportSpec | None = Field(None, description="Formats to write the model in, besides safetensors.")
    explanation: ExplanationSpec | None = Field(None, description="Predictions to explain after training.")
    tracking: TrackingSpec = Field(TrackingSpec(), description="Experiment trackers that record the metrics.")
    start_from: StartFromSpec | None = Field(None, description="Another job's model to start from.")
    parallelism: Parallelism = Field(
        Parallelism.DDP,
        description="ddp (every process holds the whole model) or fsdp (weights, gradients and optimizer state are "
        "split over the processes).",
    )

    @property
    def loss_name(self) -> LossName | None:
        """The loss, by default the one that fits the task; None for a function of the user's."""
        if self.loss is not None:
            return self.loss.name
        return self.traits.losses[0]

    @property
    def deciding_metrics(self) -> tuple[MetricName, ...]:
        """The metrics that decide which evaluation is the best: that of early stopping, else the task's main one, then the loss."""
        stopping = self.training.early_stopping
        return (self.traits.main_metric, MetricName.LOSS) if stopping is None else (stopping.metric,)

    @property
    def traits(self) -> TaskTraits:
        """The traits of the task."""
        return TASKS[self.task]
