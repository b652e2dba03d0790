"""From a model's outputs to what a person or another program reads."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trainwright.api.spec.job import Task
from trainwright.api.spec.objective import LossName
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.training.losses import probabilities

Row = dict[str, Any]
"""What is said of one sample: `target` where it is known, `prediction`, and for classes `probabilities` by name."""

BLANK = 0
"""What CTC puts between two characters."""


def make_reader(dataset: Dataset, loss: LossName) -> Callable[[Batch, Tensor, bool], list[Row]]:
    """Return what turns a batch, its outputs (float32, CPU) and whether its targets are true into rows.

    Args:
        dataset: The data.
        loss: What the model was trained with, which decides what its outputs say.
    """
    if dataset.task == Task.TRANSCRIPTION:
        return lambda batch, outputs, known: _transcripts(batch, outputs, dataset.classes or (), known=known)
    if dataset.classes is not None:
        classes = dataset.classes
        return lambda batch, outputs, known: _classes(batch, probabilities(outputs, loss), classes, known=known)
    return lambda batch, outputs, known: _numbers(batch, outputs, dataset, known=known)


def _classes(batch: Batch, said: Tensor, classes: tuple[str, ...], *, known: bool) -> list[Row]:
    rows: list[Row] = []
    for target, shares in zip(batch.targets.tolist(), said.tolist(), strict=True):
        row: Row = {"target": classes[target]} if known else {}
        row["prediction"] = classes[shares.index(max(shares))] if all(map(math.isfinite, shares)) else None
        row["probabilities"] = dict(zip(classes, map(_short, shares), strict=True))
        rows.append(row)
    return rows


def _numbers(batch: Batch, outputs: Tensor, dataset: Dataset, *, known: bool) -> list[Row]:

    def in_units(values: Tensor) -> list[Any]:
        """Return a number per sample, or a list of numbers where there are several targets."""
        rows = dataset.normalization.targets_in_units(values).tolist()
        return [_short(row[0]) if len(row) == 1 else [_short(value) for value in row] for row in rows]

    truth = in_units(batch.targets) if known else []
    return [
        ({"target": truth[index]} if known else {}) | {"prediction": value}
        for index, value in enumerate(in_units(outputs))
    ]


def _transcripts(batch: Batch, outputs: Tensor, characters: tuple[str, ...], *, known: bool) -> list[Row]:
    rows: list[Row] = []
    best = outputs.argmax(2)
    for index, line in enumerate(best):
        real = line if batch.mask is None else line[batch.mask[index]]
        row: Row = {}
        if known:
            target = batch.targets[index]
            row["target"] = _spell(target[target != IGNORED], characters)
        row["prediction"] = _spell(torch.unique_consecutive(real), characters)
        rows.append(row)
    return rows


def _spell(numbers: Tensor, characters: tuple[str, ...]) -> str:
    """Return the text of character numbers, which count from 1."""
    return "".join(characters[number - 1] for number in numbers.tolist() if number != BLANK)


def _short(value: float) -> float | None:
    """Return the digits of a float32 that mean something; None for what is no number, which JSON has no word for."""
    return float(f"{value:.7g}") if math.isfinite(value) else None
