"""Gang scheduling and queueing of a job's workers."""

from enum import StrEnum

from pydantic import Field

from trainwright.api.base import Model, Rule
from trainwright.api.spec.primitives import DnsLabel, DnsName


class Gang(StrEnum):
    """The component that schedules either all workers or none."""

    AUTO = "auto"
    KUBERNETES = "kubernetes"
    VOLCANO = "volcano"
    SCHEDULER_PLUGINS = "scheduler-plugins"
    NONE = "none"


class SchedulingSpec(Model):
    """How the workers are scheduled."""

    gang: Gang = Field(
        Gang.AUTO,
        description="The component that schedules either all workers or none: kubernetes (PodGroup of scheduling.k8s.io), volcano, "
        "scheduler-plugins (coscheduling), or none. auto means kubernetes where the cluster serves it and "
        "workers.schedulerName names no other scheduler.",
    )
    queue: DnsLabel | None = Field(
        None,
        description="Queue to wait in: a LocalQueue of Kueue in the job's namespace; with gang: volcano, a Queue of "
        "Volcano.",
    )
    priority: DnsName | None = Field(
        None,
        description="WorkloadPriorityClass of Kueue. It decides the order in the queue and which workloads Kueue may preempt.",
    )

    rules = (
        Rule(
            field="priority",
            message="is a WorkloadPriorityClass of Kueue: set queue to a LocalQueue of Kueue too, or use workers.priorityClassName",
            cel="!has(self.priority) || (has(self.queue) && self.gang != 'volcano')",
            holds=lambda self: self.priority is None or self.in_kueue,
        ),
    )

    @property
    def gang_names_a_scheduler(self) -> bool:
        """Whether the pods' scheduler follows from the gang, unless workers.schedulerName names another."""
        return self.gang in (Gang.VOLCANO, Gang.SCHEDULER_PLUGINS)

    @property
    def in_kueue(self) -> bool:
        """Whether Kueue admits the job."""
        return self.queue is not None and self.gang != Gang.VOLCANO
