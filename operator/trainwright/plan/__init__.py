"""Pure decisions: `plan(Observed) -> Plan`. No clock, client, randomness or kopf in here; one small file per policy."""

from trainwright.plan.planner import plan
from trainwright.plan.pods import Pod
from trainwright.plan.types import Event, Job, Observed, Plan, PodDeletion, Received

__all__ = ["Event", "Job", "Observed", "Plan", "Pod", "PodDeletion", "Received", "plan"]
