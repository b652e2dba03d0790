"""What a finished job leaves behind: weights, metrics and predictions, each written whole or not at all."""

import csv
import io
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from trainwright.api.spec import PredictionSpec, TrainingJobSpec
from trainwright.api.status import Evaluation, Results
from trainwright_worker.batch import Batch
from trainwright_worker.data.dataset import Dataset, pick
from trainwright_worker.data.loader import read_ahead
from trainwright_worker.errors import UserError
from trainwright_worker.evaluate import Forward
from trainwright_worker.results.folder import ResultsFolder

WEIGHTS = "weights.safetensors"
SUMMARY = "results.json"
PREDICTIONS = "predictions.csv"
PREDICTION_BATCH = 256


def write_results(
    job_folder: str, model: nn.Module, spec: TrainingJobSpec, facts: dict[str, Any], predictions: str | None
) -> Results:
    """Write everything into the job's `results` folder and return where it lies.

    Args:
        job_folder: The folder of the job.
        model: The trained model.
        spec: The job.
        facts: What to say in results.json besides the spec and the versions.
        predictions: CSV text, or None if the spec asks for none.
    """
    folder = Path(job_folder) / "results"
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}
    summary = {**facts, "spec": spec.to_wire(), "versions": versions}
    files = ResultsFolder(job_folder)
    files.write(WEIGHTS, safetensors.torch.save(weights))
    files.write(SUMMARY, json.dumps(summary, indent=2).encode())
    if predictions is not None:
        files.write(PREDICTIONS, predictions.encode())
    return Results(
        folder=str(folder),
        weights=str(folder / WEIGHTS),
        predictions=None if predictions is None else str(folder / PREDICTIONS),
    )


def predict(spec: PredictionSpec, model: nn.Module, forward: Forward, dataset: Dataset, device: torch.device) -> str:
    """Return predictions as CSV text.

    For classes: the predicted class and the probability of each. For a regression: the value in the target's own units.
    Predictions of a split also give the true target.

    Raises:
        UserError: A row has not as many numbers as the model has inputs.
    """
    outputs, targets = [], []
    model.eval()
    with torch.inference_mode():
        for batch in _batches(spec, dataset, device):
            outputs.append(forward(batch).cpu())
            targets.append(batch.targets.cpu())
    model.train()
    truths = torch.cat(targets) if spec.split is not None else None
    file = io.StringIO()
    writer = csv.writer(file)
    names = [f"probability_{name}" for name in dataset.classes or ()]
    writer.writerow(["index", *(["target"] if truths is not None else []), "prediction", *names])
    for index, values in enumerate(_readable(torch.cat(outputs), dataset)):
        truth = [] if truths is None else [_truth(truths[index], dataset)]
        writer.writerow([index, *truth, *values])
    return file.getvalue()


def evaluation_facts(evaluation: Evaluation | None) -> dict[str, Any] | None:
    """Return an evaluation for results.json."""
    return None if evaluation is None else evaluation.to_wire()


def check_rows(spec: PredictionSpec | None, shape: tuple[int, ...]) -> None:
    """Check, before training, that the rows to predict fit the data.

    Raises:
        UserError: A row has not as many numbers as the data has features.
    """
    for index, row in enumerate((spec.inputs if spec is not None else None) or ()):
        if len(row) != shape[0]:
            raise UserError(
                f"spec.prediction.inputs[{index}]: {len(row)} numbers, but the data has {shape[0]} features"
            )


def _batches(spec: PredictionSpec, dataset: Dataset, device: torch.device) -> Iterator[Batch]:
    if spec.inputs is not None:
        yield dataset.batch_of_rows(spec.inputs).to(device)
    elif spec.texts is not None:
        yield dataset.batch_of_texts(spec.texts).to(device)
    else:
        samples = pick(dataset.splits, spec.split or "test")
        if samples is None:
            raise UserError(f"spec.prediction.split: {spec.split} holds no samples")
        requests = ((part, None) for part in torch.split(torch.arange(len(samples)), PREDICTION_BATCH))
        yield from read_ahead(samples, requests, device)


def _readable(outputs: Tensor, dataset: Dataset) -> Iterator[list[str]]:
    """Yield the prediction of each sample, then the probabilities of its classes."""
    if dataset.classes is None:
        scale = dataset.normalization
        for value in (outputs[:, 0].double() * scale.target_deviation + scale.target_mean).tolist():
            yield [f"{value:.9g}"]
        return
    for row in outputs.softmax(1).tolist():
        yield [dataset.classes[row.index(max(row))], *(f"{share:.9g}" for share in row)]


def _truth(target: Tensor, dataset: Dataset) -> str:
    if dataset.classes is not None:
        return dataset.classes[int(target)]
    scale = dataset.normalization
    return f"{float(target) * scale.target_deviation + scale.target_mean:.9g}"
