"""What a valid spec asks for and will probably not get. It is not refused, since only the worker's machine can tell for sure."""

from trainwright.api.job import FieldError
from trainwright.api.spec import TrainingJobSpec


def cautions(spec: TrainingJobSpec) -> list[FieldError]:
    """Return what will probably not work, by field."""
    processes, gpus = spec.workers.processes_per_worker, spec.workers.gpus
    if not 0 < gpus < processes:
        return []
    message = (
        f"{processes}, but each worker asks for only {gpus} GPU(s), and each process needs its own: set it to {gpus}, or ask for "
        f"{processes} in spec.workers.resources.limits"
    )
    return [FieldError("spec.workers.processesPerWorker", message)]
