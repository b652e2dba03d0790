"""The preflight check of a rank: estimates memory on rank 0, and refuses a job that will not fit before training."""

from typing import Final

from trainwright.api.figures import Preflight
from trainwright.api.spec import TrainingJobSpec
from trainwright_worker.data.dataset import Dataset
from trainwright_worker.distributed.placement import RankPlacement
from trainwright_worker.errors import OutOfMemoryError
from trainwright_worker.facts import Facts
from trainwright_worker.preflight.advice import Need
from trainwright_worker.preflight.budget import setup_of, this_device, usual_length
from trainwright_worker.preflight.measure import Gauge, UnmeasurableError
from trainwright_worker.preflight.verdict import judge, table
from trainwright_worker.training.teacher import read_model

_NO_REMEDY: Final = "use a smaller model, or processes with more memory: spec.workers.resources, or another GPU"
"""Hint if no setting of the job makes it fit."""


def measure_job(
    spec: TrainingJobSpec, dataset: Dataset, facts: Facts, root: str, placement: RankPlacement
) -> tuple[Preflight | None, list[str]]:
    """Return what a job needs, and lines for the log; None and one line if it cannot be measured.

    Args:
        spec: The job.
        dataset: Its data.
        facts: Input shape, number of outputs and vocabulary size of the data.
        root: Folder that relative paths are resolved against.
        placement: Position of this rank; ranks on the same worker share its memory.

    Raises:
        UserError: The model does not fit the data.
    """
    device = this_device(placement.neighbours)
    teacher = None if spec.distillation is None else read_model(spec.distillation, root)
    try:
        need = Need(Gauge(spec, facts, cuda=device.cuda, root=root, teacher=teacher), spec)
        setup = setup_of(spec, placement.size, len(dataset.splits.train), cuda=device.cuda)
        preflight, _ = judge(need, setup, device, usual_length(dataset.splits.train, setup.micro_batch))
    except UnmeasurableError as error:
        return None, [f"preflight: memory cannot be estimated: {error}"]
    return preflight, ["preflight", *(f"  {line}" for line in table(preflight))]


def refuse_if_too_large(preflight: Preflight) -> None:
    """Raise an error if the job will not fit.

    Raises:
        OutOfMemoryError: The job will not fit; names changes that make it fit.
    """
    if not preflight.fits:
        message, _, ways = preflight.message.partition(". It fits with ")
        raise OutOfMemoryError(f"preflight: {message}", f"it fits with {ways}"[:512] if ways else _NO_REMEDY)
