"""The specification of a TrainingJob as a whole, and the rules between its parts."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from pydantic import Field

from trainwright.api.base import Model, Rule
from trainwright.api.spec.budget import BudgetSpec
from trainwright.api.spec.checkpoint import CheckpointSpec, Parallelism, StartFromSpec
from trainwright.api.spec.dataset import BuiltinName, DatasetSpec, SyntheticKind
from trainwright.api.spec.evaluation import EvaluationSpec, MetricName
from trainwright.api.spec.health import HealthSpec
from trainwright.api.spec.model import ModelSpec
from trainwright.api.spec.objective import DistillationSpec, LossName, LossSpec, RegularizationSpec
from trainwright.api.spec.optimization import OptimizerName, OptimizerSpec, ScheduleSpec
from trainwright.api.spec.outcome import ExplanationSpec, ExportSpec, GenerationSpec, PredictionSpec, TrackingSpec
from trainwright.api.spec.restart import RestartSpec
from trainwright.api.spec.scheduling import SchedulingSpec
from trainwright.api.spec.training import Precision, TrainingSpec
from trainwright.api.spec.workers import WorkersSpec


class Task(StrEnum):
    """What the model learns to do."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    LANGUAGE_MODELING = "language-modeling"
    TRANSCRIPTION = "transcription"


_NUMBERS = frozenset({Task.CLASSIFICATION, Task.REGRESSION})

LOSSES: Final = {
    Task.CLASSIFICATION: (LossName.CROSS_ENTROPY, LossName.BCE),
    Task.REGRESSION: (LossName.MSE, LossName.L1, LossName.HUBER),
    Task.LANGUAGE_MODELING: (LossName.CROSS_ENTROPY,),
    Task.TRANSCRIPTION: (LossName.CTC,),
}
"""The losses that fit each task; the first is its default."""

METRICS: Final = {
    Task.CLASSIFICATION: (
        MetricName.ACCURACY,
        MetricName.TOP5_ACCURACY,
        MetricName.F1,
        MetricName.PRECISION,
        MetricName.RECALL,
        MetricName.AUROC,
    ),
    Task.REGRESSION: (MetricName.MAE, MetricName.RMSE, MetricName.R2),
    Task.LANGUAGE_MODELING: (MetricName.PERPLEXITY, MetricName.TOKEN_ACCURACY),
    Task.TRANSCRIPTION: (MetricName.CHARACTER_ERROR_RATE,),
}
"""The metrics that fit each task, besides the loss."""


def _by_task(choices: Mapping[Task, tuple[StrEnum, ...]]) -> str:
    """Return a CEL expression for the names that fit the task of `self`."""
    *others, last = ((task, str([str(name) for name in names])) for task, names in choices.items())
    return "".join(f"self.task == '{task}' ? {names} : " for task, names in others) + last[1]


def _possible_tasks(dataset: DatasetSpec) -> frozenset[Task]:
    """Return the tasks that the data allows."""
    if dataset.text is not None:
        return frozenset({Task.LANGUAGE_MODELING})
    if dataset.labeled_sequences is not None:
        return frozenset({Task.TRANSCRIPTION})
    if dataset.huggingface is not None and dataset.huggingface.text is not None:
        return frozenset({Task.CLASSIFICATION, Task.LANGUAGE_MODELING})
    if dataset.csv is not None or dataset.parquet is not None or dataset.huggingface is not None:
        return _NUMBERS
    if dataset.builtin is not None and dataset.builtin.name == BuiltinName.DIABETES:
        return frozenset({Task.REGRESSION})
    if dataset.synthetic is not None and dataset.synthetic.kind == SyntheticKind.LINE:
        return frozenset({Task.REGRESSION})
    return frozenset({Task.CLASSIFICATION})


_METRICS_MESSAGE: Final = "does not fit the task: " + "; ".join(
    f"{task} has loss, {', '.join(names)}" for task, names in METRICS.items()
)


class TrainingJobSpec(Model):
    """What to train, on what, how, and with which workers."""

    model: ModelSpec = Field(description="The model to train.")
    dataset: DatasetSpec = Field(description="The data to train on.")
    task: Task = Field(
        Task.CLASSIFICATION,
        description="classification; regression; language-modeling (predict the next token of a text); transcription "
        "(read a text from a sequence of frames).",
    )
    optimizer: OptimizerSpec = Field(OptimizerSpec(), description="The optimizer; Adam at 0.001 by default.")
    schedule: ScheduleSpec = Field(ScheduleSpec(), description="The learning-rate schedule; constant by default.")
    loss: LossSpec | None = Field(
        None,
        description="The loss; by default cross-entropy, mse for regression, ctc for transcription.",
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
            message="adafactor keeps sums over whole rows and columns, which fsdp splits: use adamw, lamb, lars, muon "
            "or sgd",
            cel="self.parallelism != 'fsdp' || self.optimizer.name != 'adafactor'",
            holds=lambda self: self.parallelism != Parallelism.FSDP or self.optimizer.name != OptimizerName.ADAFACTOR,
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
            message="does not fit the task: use cross-entropy or bce for classification; mse, l1 or huber for regression; "
            "cross-entropy for language-modeling; ctc for transcription",
            cel=f"!has(self.loss) || self.loss.name in ({_by_task(LOSSES)})",
            holds=lambda self: self.loss is None or self.loss.name in LOSSES[self.task],
        ),
        Rule(
            field="evaluation.metrics",
            message=_METRICS_MESSAGE,
            cel=f"!has(self.evaluation.metrics) || self.evaluation.metrics.all(m, m == 'loss' || m in ({_by_task(METRICS)}))",
            holds=lambda self: set(self.evaluation.metrics or ()) <= {MetricName.LOSS, *METRICS[self.task]},
        ),
        Rule(
            field="training.earlyStopping.metric",
            message=_METRICS_MESSAGE,
            cel="!has(self.training.earlyStopping) || self.training.earlyStopping.metric == 'loss' || "
            f"self.training.earlyStopping.metric in ({_by_task(METRICS)})",
            holds=lambda self: (
                self.training.early_stopping is None
                or self.training.early_stopping.metric in {MetricName.LOSS, *METRICS[self.task]}
            ),
        ),
        Rule(
            field="distillation",
            message="a teacher's outputs are compared as probabilities of classes or tokens: distillation needs the "
            "cross-entropy loss",
            cel="!has(self.distillation) || (self.task in ['classification', 'language-modeling'] && "
            "(!has(self.loss) || self.loss.name == 'cross-entropy'))",
            holds=lambda self: self.distillation is None or self.loss_name == LossName.CROSS_ENTROPY,
        ),
        Rule(
            field="task",
            message="does not fit the dataset: text is language-modeling, labeledSequences transcription, diabetes and "
            "line regression; csv, parquet and huggingface may be classification or regression, huggingface's texts "
            "classification or language-modeling; all others are classification",
            cel="has(self.dataset.text) ? self.task == 'language-modeling' : has(self.dataset.labeledSequences) ? "
            "self.task == 'transcription' : has(self.dataset.huggingface) && has(self.dataset.huggingface.text) ? "
            "self.task in ['classification', 'language-modeling'] : has(self.dataset.csv) || has(self.dataset.parquet) "
            "|| has(self.dataset.huggingface) ? self.task in ['classification', 'regression'] : self.task == "
            "((has(self.dataset.builtin) && self.dataset.builtin.name == 'diabetes') || "
            "(has(self.dataset.synthetic) && self.dataset.synthetic.kind == 'line') ? 'regression' : 'classification')",
            holds=lambda self: self.task in _possible_tasks(self.dataset),
        ),
        Rule(
            field="prediction",
            message="a language model predicts the next token: ask for generation instead",
            cel="!has(self.prediction) || self.task != 'language-modeling'",
            holds=lambda self: self.prediction is None or self.task != Task.LANGUAGE_MODELING,
        ),
        Rule(
            field="generation",
            message="generation needs a language model: set task to language-modeling",
            cel="!has(self.generation) || self.task == 'language-modeling'",
            holds=lambda self: self.generation is None or self.task == Task.LANGUAGE_MODELING,
        ),
        Rule(
            field="explanation",
            message="only single predictions can be explained: use it with classification or regression",
            cel="!has(self.explanation) || self.task == 'classification' || self.task == 'regression'",
            holds=lambda self: self.explanation is None or self.task in (Task.CLASSIFICATION, Task.REGRESSION),
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
            message="rows of features need tabular data (csv, parquet, synthetic, features of huggingface, or a builtin "
            "other than digits)",
            cel="!has(self.prediction) || !has(self.prediction.inputs) || has(self.dataset.csv) || "
            "has(self.dataset.parquet) || has(self.dataset.synthetic) || (has(self.dataset.huggingface) && "
            "has(self.dataset.huggingface.features)) || (has(self.dataset.builtin) && "
            "self.dataset.builtin.name != 'digits')",
            holds=lambda self: self.prediction is None or self.prediction.inputs is None or self.dataset.has_rows,
        ),
        Rule(
            field="prediction.texts",
            message="texts need data of texts (labeledText, or a text column of huggingface)",
            cel="!has(self.prediction) || !has(self.prediction.texts) || has(self.dataset.text) || "
            "has(self.dataset.labeledText) || (has(self.dataset.huggingface) && has(self.dataset.huggingface.text))",
            holds=lambda self: self.prediction is None or self.prediction.texts is None or self.dataset.has_texts,
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
        return LOSSES[self.task][0]
