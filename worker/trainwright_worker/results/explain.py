"""Explanations of individual predictions, each as a JSON file and a picture."""

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
"""Number of training samples whose mean replaces absent parts."""


def explain(
    spec: ExplanationSpec, model: nn.Module, dataset: Dataset, task: Task, folder: ResultsFolder, seed: int = 0
) -> str:
    """Write explanations and return their folder.

    Args:
        spec: Samples and methods.
        model: The model, in evaluation mode; it stays on its device.
        dataset: The data of the job.
        task: The task of the model.
        folder: The results folder.
        seed: Seed of the perturbations of LIME and SHAP.
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
    """Return the explanation of the model's prediction for one sample.

    Args:
        spec: The methods.
        model: The model, in evaluation mode.
        dataset: The data, for names of classes and units.
        task: The task of the model.
        split: The split of the sample.
        index: Index of the sample in its split.
        background: Replacement for absent parts, see `Subject`.
        seed: Seed of the perturbations of LIME and SHAP.
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
            # For regression, in units of the target. Of several targets, only the first is explained.
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
    """Return the name of each part: the token, or the feature with its unscaled value."""
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
    """Return the unscaled image with values from 0 to 1."""
    image, scale = batch.input[0], dataset.normalization
    if scale.mean:
        image = image * torch.tensor(scale.deviation)[:, None, None] + torch.tensor(scale.mean)[:, None, None]
    low, high = image.min(), image.max()
    return (image - low) / (high - low).clamp(min=1e-6)
