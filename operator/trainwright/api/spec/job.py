"""The specification of a TrainingJob as a whole, and the rules between its parts."""

from collections.abc import Callable, Iterable
from typing import Final

from pydantic import Field

from trainwright.api.base import Model, Rule, in_cel, listed
from trainwright.api.spec.budget import BudgetSpec
from trainwright.api.spec.checkpoint import CheckpointSpec, Parallelism, StartFromSpec
from trainwright.api.spec.dataset import DatasetSpec
from trainwright.api.spec.evaluation import EvaluationSpec, MetricName
from trainwright.api.spec.health import HealthSpec
from trainwright.api.spec.model import ModelSpec
from trainwright.api.spec.objective import DistillationSpec, LossName, LossSpec, RegularizationSpec
from trainwright.api.spec.optimization import OptimizerSpec, ScheduleSpec, optimizers_where
from trainwright.api.spec.outcome import ExplanationSpec, ExportSpec, GenerationSpec, PredictionSpec, TrackingSpec
from trainwright.api.spec.restart import RestartSpec
from trainwright.api.spec.scheduling import SchedulingSpec
from trainwright.api.spec.source import Modality, Source, choose_in_cel, modality_in_cel, sources_where
from trainwright.api.spec.task import TASKS, TaskName, TaskTraits, tasks_where
from trainwright.api.spec.training import Precision, TrainingSpec
from trainwright.api.spec.workers import WorkersSpec


def _by_task(choices: Callable[[TaskTraits], str]) -> str:
    """Return a CEL expression that has, for the task of `self`, the value that a function gives for its traits."""
    *others, (_, last) = ((task, choices(traits)) for task, traits in TASKS.items())
    return "".join(f"self.task == '{task}' ? {value} : " for task, value in others) + last


def _listed(choices: Callable[[TaskTraits], Iterable[str]], verb: str) -> str:
    """Return what each task has, for a message."""
    return "; ".join(f"{task} {verb} {', '.join(choices(traits))}" for task, traits in TASKS.items())


def _tasks_of(source: Source) -> tuple[TaskName, ...]:
    """Return the tasks that data of a source allow."""
    return tasks_where(lambda traits: traits.target in source.targets)


_METRICS_MESSAGE: Final = "does not fit the task: " + _listed(lambda traits: ("loss", *traits.metrics), "has")
_LOSSES_MESSAGE: Final = "does not fit the task: " + _listed(lambda traits: traits.losses, "has")
_TASK_MESSAGE: Final = "does not fit the dataset: " + "; ".join(
    f"{task} learns from {sources_where(lambda source, traits=traits: traits.target in source.targets)}"  # type: ignore[misc]
    for task, traits in TASKS.items()
)
_SHARDING: Final = optimizers_where(lambda traits: traits.shards)
_PREDICTING: Final = tasks_where(lambda traits: traits.predicts)
_GENERATING: Final = tasks_where(lambda traits: traits.generates)
_EXPLAINED: Final = tasks_where(lambda traits: traits.explains)
_DISTILLED: Final = tasks_where(lambda traits: traits.distills)


class TrainingJobSpec(Model):
    """What to train, on what, how, and with which workers."""

    model: ModelSpec = Field(description="The model to train.")
    dataset: DatasetSpec = Field(description="The data to train on.")
    task: TaskName = Field(
        TaskName.CLASSIFICATION,
        description="; ".join(f"{task} ({traits.summary})" for task, traits in TASKS.items()) + ".",
    )
    optimizer: OptimizerSpec = Field(OptimizerSpec(), description="The optimizer; Adam at 0.001 by default.")
    schedule: ScheduleSpec = Field(ScheduleSpec(), description="The learning-rate schedule; constant by default.")
    loss: LossSpec | None = Field(
        None,
        description="The loss; by default " + _listed(lambda traits: traits.losses[:1], "has") + ".",
    )
    regularization: RegularizationSpec = Field(RegularizationSpec(), description="L1, L2 and dropout.")
    distillation: DistillationSpec | None = Field(None, description="A teacher to learn from.")
    training: TrainingSpec = Field(description="How long to train and in what batches.")
    health: HealthSpec = Field(HealthSpec(), description="What to do when numbers go wrong or a process hangs.")
    evaluation: EvaluationSpec = Field(EvaluationSpec(), description="When to evaluate on the validation split.")
    prediction: PredictionSpec | None = Field(None, description="Predictions to write after training.")
    generation: GenerationSpec | None = Field(None, description="Texts to generate after training.")
    export: ExportSpec | None = Field(None, description="Formats to write the model in, besides safetensors.")
    explanation: ExplanationSpec | None = Field(None, description="Predictions to explain after training.")
    tracking: TrackingSpec = Field(TrackingSpec(), description="Where the course of training is recorded.")
    workers: WorkersSpec = Field(WorkersSpec(), description="The worker pods.")
    scheduling: SchedulingSpec = Field(
        SchedulingSpec(), description="How the workers get their places: all or nothing, and from which queue."
    )
    checkpoint: CheckpointSpec = Field(CheckpointSpec(), description="Where and how often to save.")
    start_from: StartFromSpec | None = Field(None, description="Another job's model to start from.")
    parallelism: Parallelism = Field(
        Parallelism.DDP,
        description="ddp (every process holds the whole model) or fsdp (weights, gradients and optimizer state are "
        "split over the processes).",
    )
    restart: RestartSpec = Field(RestartSpec(), description="Which failures are tried again, and how often.")
    suspend: bool = Field(
        False,
        description="True saves, deletes the pods and frees their GPUs; false goes on where it was, or begins anew if "
        "checkpoint has neither persistentVolumeClaim nor uri.",
    )
    start_deadline_seconds: int | None = Field(
        None,
        ge=1,
        le=31_536_000,
        description="Seconds in which all workers must come to run. If they do not, the job gives back what it holds and "
        "tries again later, so that two half-started jobs never wait for each other.",
    )
    active_deadline_seconds: int | None = Field(
        None,
        ge=1,
        le=31_536_000,
        description="Seconds the job may be active before it is stopped and failed. Time in queues does not count; a "
        "suspension ends the count, and a job that is resumed has all of them again.",
    )
    budget: BudgetSpec | None = Field(None, description="What the job may use up before it is stopped and failed.")
    ttl_seconds_after_finished: int | None = Field(
        None, ge=0, le=31_536_000, description="Seconds after its end at which the job is deleted with its pods."
    )

    rules = (
        Rule(
            field="parallelism",
            message="fsdp writes a part of every checkpoint from each worker: several workers need "
            "checkpoint.persistentVolumeClaim or checkpoint.uri, which all of them see",
            cel="self.parallelism != 'fsdp' || self.workers.count == 1 || "
            "has(self.checkpoint.persistentVolumeClaim) || has(self.checkpoint.uri)",
            holds=lambda self: (
                self.parallelism != Parallelism.FSDP or self.workers.count == 1 or self.checkpoint.durable
            ),
        ),
        Rule(
            field="optimizer.name",
            message=f"this optimizer cannot take a step with weights that fsdp splits: use {listed(_SHARDING, 'or')}",
            cel=f"self.parallelism != 'fsdp' || self.optimizer.name in {in_cel(_SHARDING)}",
            holds=lambda self: self.parallelism != Parallelism.FSDP or self.optimizer.traits.shards,
        ),
        Rule(
            field="parallelism",
            message="fsdp trains in fp32 or bf16: gradients of fp16 are scaled on each process by itself",
            cel="self.parallelism != 'fsdp' || self.training.precision != 'fp16'",
            holds=lambda self: self.parallelism != Parallelism.FSDP or self.training.precision != Precision.FP16,
        ),
        Rule(
            field="training.globalBatchSize",
            message="must be at least workers.count x workers.processesPerWorker, so that every process gets a sample",
            cel="self.training.fullBatch || "
            "self.training.globalBatchSize >= self.workers.count * self.workers.processesPerWorker",
            holds=lambda self: self.training.full_batch or self.training.global_batch_size >= self.world_size,
        ),
        Rule(
            field="loss.name",
            message=_LOSSES_MESSAGE,
            cel=f"!has(self.loss) || self.loss.name in ({_by_task(lambda traits: in_cel(traits.losses))})",
            holds=lambda self: self.loss is None or self.loss.name in self.traits.losses,
        ),
        Rule(
            field="evaluation.metrics",
            message=_METRICS_MESSAGE,
            cel="!has(self.evaluation.metrics) || self.evaluation.metrics.all(m, m == 'loss' || m in "
            f"({_by_task(lambda traits: in_cel(traits.metrics))}))",
            holds=lambda self: set(self.evaluation.metrics or ()) <= {MetricName.LOSS, *self.traits.metrics},
        ),
        Rule(
            field="training.earlyStopping.metric",
            message=_METRICS_MESSAGE,
            cel="!has(self.training.earlyStopping) || self.training.earlyStopping.metric == 'loss' || "
            f"self.training.earlyStopping.metric in ({_by_task(lambda traits: in_cel(traits.metrics))})",
            holds=lambda self: (
                self.training.early_stopping is None
                or self.training.early_stopping.metric in {MetricName.LOSS, *self.traits.metrics}
            ),
        ),
        Rule(
            field="distillation",
            message="a teacher's outputs are compared as probabilities of classes or tokens: distillation needs the "
            f"cross-entropy loss, and task {listed(_DISTILLED, 'or')}",
            cel=f"!has(self.distillation) || (self.task in {in_cel(_DISTILLED)} && "
            "(!has(self.loss) || self.loss.name == 'cross-entropy'))",
            holds=lambda self: (
                self.distillation is None or (self.traits.distills and self.loss_name == LossName.CROSS_ENTROPY)
            ),
        ),
        Rule(
            field="task",
            message=_TASK_MESSAGE,
            cel=f"self.task in ({choose_in_cel('self.dataset', lambda source: in_cel(_tasks_of(source)))})",
            holds=lambda self: self.traits.target in self.dataset.source.targets,
        ),
        Rule(
            field="prediction",
            message=f"samples are predicted by task {listed(_PREDICTING, 'or')}: ask a language model for generation instead",
            cel=f"!has(self.prediction) || self.task in {in_cel(_PREDICTING)}",
            holds=lambda self: self.prediction is None or self.traits.predicts,
        ),
        Rule(
            field="generation",
            message=f"generation needs a language model: set task to {listed(_GENERATING, 'or')}",
            cel=f"!has(self.generation) || self.task in {in_cel(_GENERATING)}",
            holds=lambda self: self.generation is None or self.traits.generates,
        ),
        Rule(
            field="explanation",
            message=f"only single predictions can be explained: use it with {listed(_EXPLAINED, 'or')}",
            cel=f"!has(self.explanation) || self.task in {in_cel(_EXPLAINED)}",
            holds=lambda self: self.explanation is None or self.traits.explains,
        ),
        Rule(
            field="budget.gpuHours",
            message="the workers ask for no GPUs (workers.resources.limits): set workerHours instead",
            cel="!has(self.budget) || !has(self.budget.gpuHours) || (has(self.workers.resources) && "
            "has(self.workers.resources.limits) && self.workers.resources.limits.exists(name, "
            "name.endsWith('/gpu') || name.contains('/gpu.') || name.contains('/mig-')))",
            holds=lambda self: (
                self.budget is None
                or self.budget.gpu_hours is None
                or (
                    self.workers.resources is not None
                    and any(
                        name.endswith("/gpu") or "/gpu." in name or "/mig-" in name
                        for name in self.workers.resources.limits or ()
                    )
                )
            ),
        ),
        Rule(
            field="prediction.inputs",
            message="rows of features need data of such rows: "
            + sources_where(lambda source: source.modality == Modality.ROWS),
            cel=f"!has(self.prediction) || !has(self.prediction.inputs) || "
            f"{modality_in_cel('self.dataset', Modality.ROWS)}",
            holds=lambda self: (
                self.prediction is None
                or self.prediction.inputs is None
                or self.dataset.source.modality == Modality.ROWS
            ),
        ),
        Rule(
            field="prediction.texts",
            message="texts need data of texts: " + sources_where(lambda source: source.modality == Modality.TEXTS),
            cel=f"!has(self.prediction) || !has(self.prediction.texts) || "
            f"{modality_in_cel('self.dataset', Modality.TEXTS)}",
            holds=lambda self: (
                self.prediction is None
                or self.prediction.texts is None
                or self.dataset.source.modality == Modality.TEXTS
            ),
        ),
    )

    @property
    def world_size(self) -> int:
        """Number of training processes over all workers."""
        return self.workers.count * self.workers.processes_per_worker

    @property
    def loss_name(self) -> LossName:
        """The loss, by default the one that fits the task."""
        if self.loss is not None:
            return self.loss.name
        return self.traits.losses[0]

    @property
    def deciding_metrics(self) -> tuple[MetricName, ...]:
        """What decides which evaluation is the best: the metric of early stopping, else the task's main one, then the loss."""
        stopping = self.training.early_stopping
        return (self.traits.main_metric, MetricName.LOSS) if stopping is None else (stopping.metric,)

    @property
    def traits(self) -> TaskTraits:
        """What is particular to the task."""
        return TASKS[self.task]
