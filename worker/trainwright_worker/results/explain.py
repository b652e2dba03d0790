"""Explanations of single predictions: a JSON file and a picture each."""

import json
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from trainwright.api.spec import ExplanationSpec
from trainwright_worker.batch import Batch, run_model
from trainwright_worker.data.dataset import Dataset, existing_split
from trainwright_worker.data.samples import Samples
from trainwright_worker.data.table import Split
from trainwright_worker.results.attribution import Subject, attribute
from trainwright_worker.results.explanation import Explanation
from trainwright_worker.results.folder import ResultsFolder
from trainwright_worker.results.identity import Identities
from trainwright_worker.results.picture import draw
from trainwright_worker.results.quality import evenly
from trainwright_worker.tasks.task import Task

BACKGROUND: Final = 512
"""Training samples whose mean stands for what is not there."""


def explain(
    spec: ExplanationSpec, model: nn.Module, dataset: Dataset, task: Task, folder: ResultsFolder, seed: int = 0
) -> str:
    """Write explanations and return their folder.

    Args:
        spec: Which samples, and how.
        model: The model, for evaluation; it stays where it is.
        dataset: Where the samples come from.
        task: What the model has learnt to do.
        folder: The results.
        seed: Seed of what LIME and SHAP try.
    """
    split = existing_split(dataset, spec.split, "spec.explanation.split")
    background, identities = _background(dataset), Identities(split)
    for index in evenly(len(split), spec.samples).tolist():
        found = explain_one(spec, model, dataset, task, split, index, background, seed)
        explanation = replace(found, facts={**found.facts, **identities.describe(index)})
        name = f"explanations/{spec.split}-{index:06}"
        folder.write(f"{name}.json", json.dumps(explanation.to_json(), indent=1, ensure_ascii=False).encode())
        folder.write(f"{name}.png", draw(explanation))
    return f"{folder.path}/explanations"


def explain_one(
    spec: ExplanationSpec,
    model: nn.Module,
    dataset: Dataset,
    task: Task,
    split: Split,
    index: int,
    background: Tensor,
    seed: int,
) -> Explanation:
    """Return the explanation of the model's answer to one sample.

    Args:
        spec: The methods.
        model: The model, for evaluation.
        dataset: The data, which knows the names of classes.
        task: What the model has learnt to do.
        split: Where the sample is.
        index: Which it is.
        background: What stands for what is not there, see `Subject`.
        seed: Seed of what LIME and SHAP try.
    """
    device = next(model.parameters()).device
    batch = split.take(torch.tensor([index]))
    with torch.no_grad():
        outputs = run_model(model, batch.to(device)).float().cpu()
    answer = int(outputs[0].argmax()) if dataset.classes is not None else 0
    subject = Subject(model, batch.to(device), answer, background.to(device))
    row = task.describe(batch, outputs, dataset, known=True)[0]
    text = {} if dataset.tokenizer is None else {"text": dataset.tokenizer.decode(subject.ids.tolist())}
    return Explanation(
        facts={"index": index, "split": spec.split.value, **text, **row},
        answer=dataset.classes[answer] if dataset.classes is not None else "the prediction",
        parts=_parts(dataset, subject, batch),
        image=_image(dataset, batch) if subject.grid is not None else None,
        attributions={
            # In units of the target, where it has any: of several, the first is explained.
            method.value: attribute(method, subject, seed + index).cpu() * dataset.normalization.target_deviation[0]
            for method in spec.methods
        },
    )


def _background(dataset: Dataset) -> Tensor:
    """Return the mean of training inputs, per feature or channel, or the padding token ([1] int64)."""
    if dataset.tokenizer is not None:
        return torch.tensor([dataset.tokenizer.padding])
    train = dataset.splits.train
    inputs = train.take(evenly(len(train), BACKGROUND)).input
    if inputs.dim() == 2:  # noqa: PLR2004 - rows of features
        return inputs.mean(0)
    others = [axis for axis in range(inputs.dim()) if axis != 1]
    return inputs.mean(others)[:, None, None].expand(inputs.shape[1:])


def _parts(dataset: Dataset, subject: Subject, batch: Batch) -> list[str]:
    """Return the name of each part: the token, or the feature with its value in its own units."""
    if subject.grid is not None:
        return []
    if dataset.tokenizer is not None:
        tokenizer = dataset.tokenizer
        return [tokenizer.decode([number]) for number in subject.ids.tolist()]
    scale = dataset.normalization
    values = batch.input[0]
    if scale.mean:
        values = values * torch.tensor(scale.deviation) + torch.tensor(scale.mean)
    train = dataset.splits.train
    names = train.features if isinstance(train, Samples) else None
    names = names or tuple(f"feature {number}" for number in range(len(values)))
    return [f"{name} = {value:.4g}" for name, value in zip(names, values.tolist(), strict=True)]


def _image(dataset: Dataset, batch: Batch) -> Tensor:
    """Return the picture as it was before scaling, from 0 to 1."""
    image, scale = batch.input[0], dataset.normalization
    if scale.mean:
        image = image * torch.tensor(scale.deviation)[:, None, None] + torch.tensor(scale.mean)[:, None, None]
    low, high = image.min(), image.max()
    return (image - low) / (high - low).clamp(min=1e-6)
