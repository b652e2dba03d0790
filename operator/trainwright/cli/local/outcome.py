"""Describes the results of a run: a linear model as an equation, and warnings if the model may have learned nothing."""

import json
from pathlib import Path
from typing import Any, Final

from trainwright.api.names import SUMMARY_FILE
from trainwright.cli.local.words import figure

Summary = dict[str, Any]
"""What results.json holds."""

_TERMS: Final = 8


def read_summary(folder: str) -> Summary:
    """Return what results.json of a folder of this machine says; nothing if there is none."""
    path = Path(folder, SUMMARY_FILE)
    if not path.is_file():
        return {}
    summary: Summary = json.loads(path.read_text(encoding="utf-8"))
    return summary


def equation_text(summary: Summary) -> str | None:
    """Return a linear regression in the units of its data: `price = 2.0000 area - 0.5000 age + 40.1000`."""
    equation = summary.get("equation")
    if equation is None or len(equation["coefficients"]) > _TERMS:
        return None
    terms = [(value, f" {name}") for name, value in equation["coefficients"].items()]
    text = " ".join(
        f"{'-' if value < 0 else '+'} {figure(abs(value))}{name}"
        for value, name in [*terms, (equation["intercept"], "")]
    )
    table = summary["spec"]["dataset"].get("csv") or summary["spec"]["dataset"].get("parquet") or {}
    return f"{table.get('target', 'y')} = {text.removeprefix('+ ')}"


def doubts(summary: Summary) -> list[str]:
    """Return why a run that has succeeded may have learnt nothing."""
    found = []
    losses = [epoch["loss"] for epoch in summary.get("history", ()) if epoch["loss"] is not None]
    if losses and losses[-1] > 2 * abs(losses[0]):
        found.append(
            f"the training loss rose from {figure(losses[0])} to {figure(losses[-1])}: nothing was learnt; lower "
            "spec.optimizer.learningRate"
        )
    measured = summary.get("test") or summary.get("best")
    metrics, classes = (measured or {}).get("metrics", {}), summary.get("data", {}).get("classes")
    split = (measured or {}).get("split")
    if classes and "accuracy" in metrics:
        baseline = summary.get("baselines", {}).get(split, {"accuracy": 1 / len(classes), "samples": 0})
        if metrics["accuracy"] <= baseline["accuracy"] + _standard_error(**baseline):
            found.append(
                f"accuracy {figure(metrics['accuracy'])} on {split} is no better than always predicting the most frequent class "
                f"({figure(baseline['accuracy'])}): nothing was learnt that shows in it; change spec.optimizer.learningRate, "
                "train longer, or check the targets"
            )
    if metrics.get("r2", 1) <= 0:
        found.append(
            f"r2 {figure(metrics['r2'])} on {split} is no better than always predicting the mean: nothing was learnt; change "
            "spec.optimizer.learningRate, train longer, or check the target"
        )
    return found


def _standard_error(accuracy: float, samples: int) -> float:
    """Return how far the accuracy of guessing is from its mean on so many samples."""
    return (accuracy * (1 - accuracy) / samples) ** 0.5 if samples else 0.0
