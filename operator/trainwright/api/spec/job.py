"""The specification of a TrainingJob as a whole, and the rules between its parts."""

from collections.abc import Callable
from typing import Final

from trainwright.api.amounts import is_zero_in_cel
from trainwright.api.base import Rule, in_cel, listed
from trainwright.api.devices import is_gpu_in_cel
from trainwright.api.names import CODE_VOLUME
from trainwright.api.spec.checkpoint import Parallelism
from trainwright.api.spec.evaluation import MetricName
from trainwright.api.spec.objective import LossName
from trainwright.api.spec.optimization import optimizers_where
from trainwright.api.spec.recipe import Recipe, by_task_text
from trainwright.api.spec.run_policy import RunPolicy
from trainwright.api.spec.source import Modality, Source, choose_in_cel, modality_in_cel, sources_where
from trainwright.api.spec.task import TASKS, TaskName, TaskTraits, tasks_where
from trainwright.api.spec.training import Precision


def _by_task(choices: Callable[[TaskTraits], str]) -> str:
    """Return a CEL expression that selects a value by the task of `self`; `choices` gives the value for each task's traits."""
    *others, (_, last) = ((task, choices(traits)) for task, traits in TASKS.items())
    return "".join(f"self.task == '{task}' ? {value} : " for task, value in others) + last


def _tasks_of(source: Source) -> tuple[TaskName, ...]:
    """Return the tasks that a data source supports."""
    return tasks_where(lambda traits: traits.target in source.targets)


_METRICS_MESSAGE: Final = "does not fit the task: " + by_task_text(lambda traits: ("loss", *traits.metrics), "has")
_LOSSES_MESSAGE: Final = "does not fit the task: " + by_task_text(lambda traits: traits.losses, "has")
_TASK_MESSAGE: Final = "does not fit the dataset: " + "; ".join(
    f"{task} learns from {sources_where(lambda source, traits=traits: traits.target in source.targets)}"  # type: ignore[misc]
    for task, traits in TASKS.items()
)
_SHARDING: Final = optimizers_where(lambda traits: traits.shards)
_PREDICTING: Final = tasks_where(lambda traits: traits.predicts)
_GENERATING: Final = tasks_where(lambda traits: traits.generates)
_EXPLAINED: Final = tasks_where(lambda traits: traits.explains)
_DISTILLED: Final = tasks_where(lambda traits: traits.distills)
_OWN_LOSSES: Final = tasks_where(lambda traits: traits.own_losses)


class TrainingJobSpec(RunPolicy, Recipe):
    """What to train, on what, how, and with which workers.

    In YAML, the fields of the recipe and of the run policy are on the same level. The rules are here because most concern both.
    """

    rules = (
        Rule(
            field="parallelism",
            message="with fsdp, each worker writes a part of every checkpoint: several workers need a shared "
            "checkpoint.persistentVolumeClaim or checkpoint.uri",
            cel="self.parallelism != 'fsdp' || self.workers.count == 1 || "
            "has(self.checkpoint.persistentVolumeClaim) || has(self.checkpoint.uri)",
            holds=lambda self: (
                self.parallelism != Parallelism.FSDP or self.workers.count == 1 or self.checkpoint.durable
            ),
        ),
        Rule(
            field="optimizer.name",
            message=f"this optimizer does not support weights sharded by fsdp: use {listed(_SHARDING, 'or')}",
            cel=f"self.parallelism != 'fsdp' || self.optimizer.name in {in_cel(_SHARDING)}",
            holds=lambda self: self.parallelism != Parallelism.FSDP or self.optimizer.traits.shards,
        ),
        Rule(
            field="parallelism",
            message="fsdp supports only fp32 and bf16: set training.precision to one of these, or parallelism to ddp",
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
            cel="!has(self.loss) || !has(self.loss.name) || self.loss.name in "
            f"({_by_task(lambda traits: in_cel(traits.losses))})",
            holds=lambda self: self.loss is None or self.loss.name is None or self.loss.name in self.traits.losses,
        ),
        Rule(
            field="loss.function",
            message=f"a loss of your own needs task {listed(_OWN_LOSSES, 'or')}: set loss.name instead",
            cel=f"!has(self.loss) || !('function' in self.loss) || self.task in {in_cel(_OWN_LOSSES)}",
            holds=lambda self: self.loss is None or self.loss.function is None or self.traits.own_losses,
        ),
        Rule(
            field="code",
            message="no module of it is used: set model.class or loss.function, or remove code",
            cel="!has(self.code) || has(self.model.class) || (has(self.loss) && 'function' in self.loss)",
            holds=lambda self: (
                self.code is None
                or self.model.class_ is not None
                or (self.loss is not None and self.loss.function is not None)
            ),
        ),
        Rule(
            field="code.configMap",
            message=f"its volume is called {CODE_VOLUME}: choose another name for yours in workers.volumes",
            cel="!has(self.code) || !has(self.code.configMap) || !has(self.workers.volumes) || "
            f"!self.workers.volumes.exists(volume, volume.name == '{CODE_VOLUME}')",
            holds=lambda self: (
                self.code is None
                or self.code.config_map is None
                or all(volume.name != CODE_VOLUME for volume in self.workers.volumes or ())
            ),
        ),
        Rule(
            field="regularization.dropout",
            message="a class of your own has its own dropout: give it the rate in model.args, or remove this",
            cel="!has(self.model.class) || self.regularization.dropout == 0.0",
            holds=lambda self: self.model.class_ is None or self.regularization.dropout == 0,
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
            message="distillation compares probabilities of classes or tokens: it needs the "
            f"cross-entropy loss, and task {listed(_DISTILLED, 'or')}",
            cel=f"!has(self.distillation) || (self.task in {in_cel(_DISTILLED)} && "
            "(!has(self.loss) || (has(self.loss.name) && self.loss.name == 'cross-entropy')))",
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
            message=f"prediction needs task {listed(_PREDICTING, 'or')}: for a language model, set generation instead",
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
            message=f"explanation needs task {listed(_EXPLAINED, 'or')}: change task, or remove explanation",
            cel=f"!has(self.explanation) || self.task in {in_cel(_EXPLAINED)}",
            holds=lambda self: self.explanation is None or self.traits.explains,
        ),
        Rule(
            field="budget.gpuHours",
            message="the workers ask for no GPUs: request some in workers.resources.limits, or set budget.workerHours instead",
            cel="!has(self.budget) || !has(self.budget.gpuHours) || (has(self.workers.resources) && "
            "has(self.workers.resources.limits) && self.workers.resources.limits.exists(name, "
            f"({is_gpu_in_cel('name')}) && !({is_zero_in_cel('self.workers.resources.limits[name]')})))",
            holds=lambda self: self.budget is None or self.budget.gpu_hours is None or self.workers.asks_for_gpus,
        ),
        Rule(
            field="prediction.inputs",
            message="inputs are rows of features and need such a dataset: "
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
            message="texts need a text dataset: " + sources_where(lambda source: source.modality == Modality.TEXTS),
            cel=f"!has(self.prediction) || !has(self.prediction.texts) || "
            f"{modality_in_cel('self.dataset', Modality.TEXTS)}",
            holds=lambda self: (
                self.prediction is None
                or self.prediction.texts is None
                or self.dataset.source.modality == Modality.TEXTS
            ),
        ),
    )
