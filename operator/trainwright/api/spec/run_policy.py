"""How a job is run: what every job has, whatever it trains."""

from pydantic import Field

from trainwright.api.base import Model
from trainwright.api.spec.budget import BudgetSpec
from trainwright.api.spec.checkpoint import CheckpointSpec
from trainwright.api.spec.health import HealthSpec
from trainwright.api.spec.restart import RestartSpec
from trainwright.api.spec.scheduling import SchedulingSpec
from trainwright.api.spec.workers import WorkersSpec


class RunPolicy(Model):
    """With which workers to run, how to go on after failures, and when to stop."""

    workers: WorkersSpec = Field(WorkersSpec(), description="The worker pods.")
    scheduling: SchedulingSpec = Field(
        SchedulingSpec(), description="How the workers get their places: all or nothing, and from which queue."
    )
    checkpoint: CheckpointSpec = Field(CheckpointSpec(), description="Where and how often to save.")
    restart: RestartSpec = Field(RestartSpec(), description="Which failures are tried again, and how often.")
    health: HealthSpec = Field(HealthSpec(), description="What to do when numbers go wrong or a process hangs.")
    suspend: bool = Field(
        False,
        description="True saves, deletes the pods and frees their GPUs; false goes on where it was, or begins anew if "
        "checkpoint has neither persistentVolumeClaim nor uri.",
    )
    start_deadline_seconds: int | None = Field(
        None,
        ge=1,
        le=31_536_000,
        description="Seconds in which all workers must come to run. If they do not, the job gives back what it holds and "
        "tries again later, so that two half-started jobs never wait for each other.",
    )
    active_deadline_seconds: int | None = Field(
        None,
        ge=1,
        le=31_536_000,
        description="Seconds the job may be active before it is stopped and failed. Time in queues does not count; a "
        "suspension ends the count, and a job that is resumed has all of them again.",
    )
    budget: BudgetSpec | None = Field(None, description="What the job may use up before it is stopped and failed.")
    ttl_seconds_after_finished: int | None = Field(
        None, ge=0, le=31_536_000, description="Seconds after its end at which the job is deleted with its pods."
    )

    @property
    def world_size(self) -> int:
        """Number of training processes over all workers."""
        return self.workers.count * self.workers.processes_per_worker
