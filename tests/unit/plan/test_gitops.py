"""How GitOps tools read a job's health: by the generic rules of kstatus, which Flux and `kubectl` plugins use."""

from dataclasses import replace

import pytest
from situations import failed, job, observed, pod, report, running_job

from trainwright.api.job import InvalidJobError, read_spec
from trainwright.plan import plan


def kstatus(status, generation=1):
    """Return what kstatus says: its rules for a resource that it does not know by kind, without deletion."""
    truth = {condition.type: condition.status for condition in status.conditions}
    if status.observed_generation not in (None, generation):
        return "InProgress"
    if truth.get("Reconciling") == "True":
        return "InProgress"
    if truth.get("Stalled") == "True":
        return "Failed"
    return {"False": "InProgress", "Unknown": "InProgress"}.get(truth.get("Ready"), "Current")


def begun():
    return job(plan(observed(job())).status)


def not_readable():
    with pytest.raises(InvalidJobError) as caught:
        read_spec({"model": {"name": "mlp"}})
    return caught.value


SITUATIONS = {
    "just created": (observed(job()), "InProgress"),
    "no room": (observed(begun(), pod(0, phase="Pending"), pod(1, phase="Pending")), "InProgress"),
    "meeting": (observed(begun(), pod(0), pod(1)), "InProgress"),
    "training": (observed(begun(), pod(0), pod(1), report=report(step=10)), "Current"),
    "suspended": (observed(job(suspend=True)), "Current"),
    "restarting": (observed(running_job(), pod(0), failed(1)), "InProgress"),
    "out of restarts": (
        observed(running_job(restart={"limit": 0}), pod(0), failed(1)),
        "Failed",
    ),
    "done": (observed(running_job(), pod(0, phase="Succeeded"), pod(1, phase="Succeeded")), "Current"),
    "done, with a spec that was not accepted meanwhile": (
        observed(replace(running_job(), spec=not_readable()), pod(0, phase="Succeeded"), pod(1, phase="Succeeded")),
        "Current",
    ),
    "not accepted": (observed(replace(job(), spec=not_readable())), "Failed"),
}


@pytest.mark.parametrize(("seen", "health"), SITUATIONS.values(), ids=SITUATIONS)
def test_health(seen, health):
    status = plan(seen).status
    assert kstatus(status, seen.job.generation) == health, [f"{c.type}={c.status}" for c in status.conditions]
