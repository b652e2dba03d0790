"""What can be known of everything after training before a step is taken: so that no week of training ends in an error."""

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
    """Check everything that the spec asks for after and beside training.

    Args:
        spec: The job.
        job_folder: Its folder.
        root: Folder at which relative paths start.
        dataset: Its data.
        facts: What the model knows of it.
        exports: Whether to try out exports, which takes seconds: once in a job's life, by the rank that makes them.

    Raises:
        UserError: Something cannot work; names the field.
    """
    check_tracking(spec.tracking, job_folder)
    if spec.prediction is not None:
        samples_to_predict(spec.prediction, dataset)
    check_generation(spec.generation, dataset.tokenizer)
    if spec.explanation is not None:
        existing_split(dataset, spec.explanation.split, "spec.explanation.split")
        for package in ("captum", "matplotlib", "sklearn"):
            if importlib.util.find_spec(package) is None:
                raise UserError(f"spec.explanation: the package {package} is not in the image")
    if spec.export is not None and exports:
        check_export(spec, dataset, facts, root)
