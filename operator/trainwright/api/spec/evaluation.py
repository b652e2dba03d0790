"""How the model is measured on data that it was not trained on."""

from enum import StrEnum

from pydantic import Field

from trainwright.api.base import Model, Rule, at_most_one_of


class MetricName(StrEnum):
    """The metrics."""

    LOSS = "loss"
    ACCURACY = "accuracy"
    TOP5_ACCURACY = "top5-accuracy"
    F1 = "f1"
    PRECISION = "precision"
    RECALL = "recall"
    AUROC = "auroc"
    MAE = "mae"
    RMSE = "rmse"
    R2 = "r2"
    PERPLEXITY = "perplexity"
    TOKEN_ACCURACY = "token-accuracy"  # noqa: S105 - no secret
    CHARACTER_ERROR_RATE = "character-error-rate"


LOWER_IS_BETTER = frozenset(
    {MetricName.LOSS, MetricName.MAE, MetricName.RMSE, MetricName.PERPLEXITY, MetricName.CHARACTER_ERROR_RATE}
)


class EvaluationSpec(Model):
    """When to measure the model on the validation split. The test split is measured once, at the end."""

    every_epochs: int | None = Field(None, ge=1, le=1_000_000, description="Epochs between evaluations; 1 by default.")
    every_steps: int | None = Field(None, ge=1, le=1_000_000_000, description="Steps between evaluations.")
    metrics: list[MetricName] | None = Field(
        None,
        min_length=1,
        max_length=16,
        description="What to measure besides the loss and what every task has anyway: accuracy (classification); mae and "
        "r2 (regression); perplexity and token-accuracy (language-modeling); character-error-rate (transcription). "
        "Further ones for classification: top5-accuracy; f1, precision, recall and auroc (means over the classes); for "
        "regression: rmse.",
    )

    rules = (
        at_most_one_of("every_epochs", "every_steps", what="evaluation"),
        Rule(
            field="metrics",
            message="name every metric once",
            cel="!has(self.metrics) || self.metrics.all(m, self.metrics.filter(n, n == m).size() == 1)",
            holds=lambda self: self.metrics is None or len(set(self.metrics)) == len(self.metrics),
        ),
    )
