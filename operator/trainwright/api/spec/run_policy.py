"""The run policy: the settings of a job that do not depend on what it trains."""

from pydantic import Field

from trainwright.api.base import Model
from trainwright.api.spec.budget import BudgetSpec
from trainwright.api.spec.checkpoint import CheckpointSpec
from trainwright.api.spec.health import HealthSpec
from trainwright.api.spec.primitives import DnsName
from trainwright.api.spec.restart import RestartSpec
from trainwright.api.spec.scheduling import SchedulingSpec
from trainwright.api.spec.workers import WorkersSpec


class RunPolicy(Model):
    """Which workers run, how the job recovers from failures, and when it stops."""

    class_: DnsName | None = Field(
        None,
        description="TrainingClass that fills in what the job does not say, and limits it. If unset: the class that the "
        "namespace's label trainwright.dev/class names, or else the default class, if there is one.",
    )
    workers: WorkersSpec = Field(WorkersSpec(), description="The worker pods.")
    scheduling: SchedulingSpec = Field(SchedulingSpec(), description="Gang scheduling and queueing of the workers.")
    checkpoint: CheckpointSpec = Field(CheckpointSpec(), description="Where and how often to save.")
    restart: RestartSpec = Field(RestartSpec(), description="Which failures lead to a restart, and how often.")
    health: HealthSpec = Field(HealthSpec(), description="How to react to non-finite numbers and hung processes.")
    suspend: bool = Field(
        False,
        description="True saves, deletes the pods and frees their GPUs. False resumes from the checkpoint, or starts from "
        "the beginning if checkpoint has neither persistentVolumeClaim nor uri.",
    )
    start_deadline_seconds: int | None = Field(
        None,
        ge=1,
        le=31_536_000,
        description="Seconds within which all workers must be running. Otherwise the job deletes its pods and retries "
        "later, so that two partly started jobs do not block each other.",
    )
    active_deadline_seconds: int | None = Field(
        None,
        ge=1,
        le=31_536_000,
        description="Seconds the job may be active before it is stopped and failed. Time in queues does not count; a "
        "suspension resets the count, so a resumed job has the full time again.",
    )
    budget: BudgetSpec | None = Field(
        None, description="Limit on GPU hours or worker hours, after which the job is stopped and fails."
    )
    ttl_seconds_after_finished: int | None = Field(
        None, ge=0, le=31_536_000, description="Seconds after its end until the job and its pods are deleted."
    )

    @property
    def world_size(self) -> int:
        """Number of training processes over all workers."""
        return self.workers.count * self.workers.processes_per_worker
