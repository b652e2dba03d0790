"""How a job gets its places: all or nothing, and in which queue it waits for its turn."""

from enum import StrEnum

from pydantic import Field

from trainwright.api.base import Model, Rule
from trainwright.api.spec.workers import DnsLabel, DnsName


class Gang(StrEnum):
    """Who sees to it that either all workers are placed or none."""

    AUTO = "auto"
    KUBERNETES = "kubernetes"
    VOLCANO = "volcano"
    SCHEDULER_PLUGINS = "scheduler-plugins"
    NONE = "none"


class SchedulingSpec(Model):
    """How the workers get their places."""

    gang: Gang = Field(
        Gang.AUTO,
        description="Who places either all workers or none: kubernetes (PodGroup of scheduling.k8s.io), volcano, "
        "scheduler-plugins (coscheduling), or none. auto means kubernetes where the cluster serves it and "
        "workers.schedulerName names no other scheduler.",
    )
    queue: DnsLabel | None = Field(
        None,
        description="Queue to wait in: a LocalQueue of Kueue in the job's namespace; with gang: volcano, a Queue of "
        "Volcano.",
    )
    priority: DnsName | None = Field(
        None, description="WorkloadPriorityClass of Kueue: who goes first in the queue, and who may be sent back to it."
    )

    rules = (
        Rule(
            field="priority",
            message="is a class of Kueue: name Kueue's queue too (workers.priorityClassName is every scheduler's)",
            cel="!has(self.priority) || (has(self.queue) && self.gang != 'volcano')",
            holds=lambda self: self.priority is None or self.in_kueue,
        ),
    )

    @property
    def in_kueue(self) -> bool:
        """Whether Kueue admits the job."""
        return self.queue is not None and self.gang != Gang.VOLCANO
