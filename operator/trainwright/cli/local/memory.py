"""Tells of workers that hold more memory than a cluster would let them have. Nothing limits their memory on this machine."""

from typing import Any

from trainwright.api.amounts import bytes_text, quantity_value
from trainwright.api.job import read_spec
from trainwright.api.status import TrainingJobStatus
from trainwright.cluster.local.gpus import count_gpus


def memory_excess(job: dict[str, Any], status: TrainingJobStatus) -> str | None:
    """Return by how much the workers have exceeded their memory limit, or None if they have not or have no limit."""
    workers, peak = read_spec(job["spec"]).workers, status.metrics.peak_memory_bytes
    limits = workers.resources.limits if workers.resources and workers.resources.limits else {}
    # On GPUs the peak is of their memory.
    if peak is None or "memory" not in limits or count_gpus():
        return None
    held, limit = peak * workers.processes_per_worker, int(quantity_value(limits["memory"]))
    if held <= limit:
        return None
    return (
        f"each worker held up to {bytes_text(held)}, more than spec.workers.resources.limits.memory allows "
        f"({bytes_text(limit)}): a cluster would have killed it"
    )
