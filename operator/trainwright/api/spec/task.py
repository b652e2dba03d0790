"""A table of the tasks and of all their differences outside the training process.

Rules, defaults, documentation and the worker follow from a task's row. A new task is one row here, one file in the worker's
`tasks`, and one example.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from trainwright.api.spec.evaluation import MetricName
from trainwright.api.spec.objective import LossName
from trainwright.api.spec.source import Modality, Target


class TaskName(StrEnum):
    """What the model learns to do."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    LANGUAGE_MODELING = "language-modeling"
    TRANSCRIPTION = "transcription"


@dataclass(frozen=True)
class TaskTraits:
    """The properties in which a task differs from others.

    Attributes:
        summary: What the model learns to do, in a few words.
        target: What it learns from the data.
        outputs: What a model's outputs stand for, in the plural.
        losses: The losses that fit; the first is the default.
        metrics: The metrics that fit, besides the loss. The first is the main one: it is shown where only one fits,
            and it decides which evaluation is the best.
        optional: Those of the metrics that are measured on request only.
        per_position: Whether the model has outputs for every position of a sequence, rather than for a sample.
        causal: Whether the output at a position may depend on this and earlier positions only.
        predicts: Whether predictions for samples can be written.
        generates: Whether the model can continue a text.
        explains: Whether single predictions can be explained.
        distills: Whether a teacher's outputs can be learnt, as probabilities of classes or tokens.
        own_losses: Whether the loss may be a function of the user's, which returns one loss per sample.
        transformers: The class of the transformers library that builds a model for inputs of a kind.
    """

    summary: str
    target: Target
    outputs: str
    losses: tuple[LossName, ...]
    metrics: tuple[MetricName, ...]
    optional: frozenset[MetricName] = frozenset()
    per_position: bool = False
    causal: bool = False
    predicts: bool = True
    generates: bool = False
    explains: bool = False
    distills: bool = False
    own_losses: bool = False
    transformers: dict[Modality, str] = field(default_factory=dict)

    @property
    def main_metric(self) -> MetricName:
        """The metric that is shown first and decides which evaluation is the best."""
        return self.metrics[0]


TASKS: Final = {
    TaskName.CLASSIFICATION: TaskTraits(
        summary="tell classes apart",
        target=Target.CLASS,
        outputs="classes",
        losses=(LossName.CROSS_ENTROPY, LossName.BCE),
        metrics=(
            MetricName.ACCURACY,
            MetricName.TOP5_ACCURACY,
            MetricName.F1,
            MetricName.PRECISION,
            MetricName.RECALL,
            MetricName.AUROC,
        ),
        optional=frozenset(
            {MetricName.TOP5_ACCURACY, MetricName.F1, MetricName.PRECISION, MetricName.RECALL, MetricName.AUROC}
        ),
        explains=True,
        distills=True,
        own_losses=True,
        transformers={
            Modality.TEXTS: "AutoModelForSequenceClassification",
            Modality.IMAGES: "AutoModelForImageClassification",
        },
    ),
    TaskName.REGRESSION: TaskTraits(
        summary="predict numbers",
        target=Target.NUMBERS,
        outputs="targets",
        losses=(LossName.MSE, LossName.L1, LossName.HUBER),
        metrics=(MetricName.R2, MetricName.MAE, MetricName.RMSE),
        optional=frozenset({MetricName.RMSE}),
        explains=True,
        own_losses=True,
        transformers={
            Modality.TEXTS: "AutoModelForSequenceClassification",
            Modality.IMAGES: "AutoModelForImageClassification",
        },
    ),
    TaskName.LANGUAGE_MODELING: TaskTraits(
        summary="predict the next token of a text",
        target=Target.TOKENS,
        outputs="tokens",
        losses=(LossName.CROSS_ENTROPY,),
        metrics=(MetricName.PERPLEXITY, MetricName.TOKEN_ACCURACY),
        per_position=True,
        causal=True,
        predicts=False,
        generates=True,
        distills=True,
        transformers={Modality.TEXTS: "AutoModelForCausalLM"},
    ),
    TaskName.TRANSCRIPTION: TaskTraits(
        summary="read a text from a sequence of frames",
        target=Target.CHARACTERS,
        outputs="characters, the blank among them",
        losses=(LossName.CTC,),
        metrics=(MetricName.CHARACTER_ERROR_RATE,),
        per_position=True,
    ),
}


def tasks_where(holds: Callable[[TaskTraits], object]) -> tuple[TaskName, ...]:
    """Return the tasks whose traits meet a condition."""
    return tuple(task for task, traits in TASKS.items() if holds(traits))


def order_metrics(names: Iterable[str]) -> list[str]:
    """Return the names of an evaluation's metrics in the order to show them in: the main metric first, the loss last."""
    known = [str(metric) for traits in TASKS.values() for metric in traits.metrics]
    ranks = {name: place for place, name in enumerate(known)} | {str(MetricName.LOSS): len(known)}
    return sorted(names, key=lambda name: ranks.get(name, len(known)))
