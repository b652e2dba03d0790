"""How much a job may cost."""

from pydantic import Field

from trainwright.api.base import Model, one_of


class BudgetSpec(Model):
    """Limit on what the job may use, including restarts. When it is spent, the workers save and the job fails."""

    gpu_hours: float | None = Field(
        None, gt=0, le=1_000_000_000, description="GPU hours that the job may use, summed over all GPUs."
    )
    worker_hours: float | None = Field(
        None, gt=0, le=1_000_000_000, description="Hours that the workers may run, summed over all workers."
    )

    rules = (one_of("gpu_hours", "worker_hours", what="budget"),)
