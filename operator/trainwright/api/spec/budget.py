"""How much a job may cost."""

from pydantic import Field

from trainwright.api.base import Model, one_of


class BudgetSpec(Model):
    """What the job may use up, restarts included. When it is spent, the workers save and the job ends as failed."""

    gpu_hours: float | None = Field(
        None, gt=0, le=1_000_000_000, description="Hours that GPUs may be held, all GPUs together."
    )
    worker_hours: float | None = Field(
        None, gt=0, le=1_000_000_000, description="Hours that workers may run, all workers together."
    )

    rules = (one_of("gpu_hours", "worker_hours", what="budget"),)
