"""Checks, made before training, of everything that happens after it, so that long training does not end in an error."""

import importlib.util

from trainwright.api.spec import TrainingJobSpec
from trainwright_worker.data.dataset import Dataset, existing_split
from trainwright_worker.data.given import samples_to_predict
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.results.export import check_export
from trainwright_worker.results.generate import check_generation
from trainwright_worker.tracking.tracking import check_tracking


def check_outcome(
    spec: TrainingJobSpec, job_folder: str, root: str, dataset: Dataset, facts: Facts, *, exports: bool
) -> None:
    """Check tracking, predictions, generation, explanations and exports before training.

    Args:
        spec: The job.
        job_folder: Its folder.
        root: Folder that relative paths are resolved against.
        dataset: Its data.
        facts: Input shape, number of outputs and vocabulary size of the data.
        exports: Whether to try an export, which takes seconds. Only rank 0 does this, and only in the first launch.

    Raises:
        UserError: One of them cannot work; names the field.
    """
    check_tracking(spec.tracking, job_folder)
    if spec.prediction is not None:
        samples_to_predict(spec.prediction, dataset)
    check_generation(spec.generation, dataset.tokenizer)
    if spec.explanation is not None:
        existing_split(dataset, spec.explanation.split, "spec.explanation.split")
        for package in ("captum", "matplotlib", "sklearn"):
            if importlib.util.find_spec(package) is None:
                raise UserError(
                    f"spec.explanation: the image lacks the package {package}", f"add {package} to the image"
                )
    if spec.export is not None and exports:
        check_export(spec, dataset, facts, root)
