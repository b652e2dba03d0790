"""A change of what may not change once workers were started, or not while they run.

It is refused, also where no policy of the API server refuses it. The status holds a digest of each such field as it was when the
spec was last accepted. A spec that differs is not carried out: work that runs is left alone, and is looked after again once the
spec is put back. A change that is allowed because no worker has run yet makes all pods start again.
"""

from trainwright.api.immutable import (
    COUNT,
    COUNT_REFUSAL,
    PLACEMENT_REFUSAL,
    REFUSAL,
    changes,
    digests,
    placement_fields,
)
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import ConditionType, Phase, TrainingJobStatus
from trainwright.plan import scale
from trainwright.plan.types import Pass

REASON = "SpecChanged"


def refusal(spec: TrainingJobSpec, status: TrainingJobStatus, generation: int) -> tuple[str, str] | None:
    """Return why this generation of the spec is not carried out, as (reason, message), or None."""
    if not status.spec_digests or _is_accepted(status, generation):
        return None
    changed = changes(status.spec_digests, digests(spec))
    placement = [path for path in changed if path in placement_fields()]
    fixed = [path for path in changed if path not in (COUNT, *placement)]
    said = [f"{_named(fixed)} {REFUSAL}"] if fixed else []
    if placement and not (spec.suspend or status.phase == Phase.SUSPENDED or _is_untried(status)):
        said.append(f"{_named(placement)} {PLACEMENT_REFUSAL}")
    if COUNT in changed and status.progress.step > 0 and not spec.checkpoint.durable:
        said.append(f"spec.{COUNT} {COUNT_REFUSAL}")
    return (REASON, "; ".join(said)) if said else None


def record(spec: TrainingJobSpec, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status of an accepted spec with what may not change from now on. Before the first start all of it may."""
    return status.changed(spec_digests=digests(spec)) if status.attempt else status


def decide(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus | None:
    """Return the status with a new attempt if the pods were made for another placement and no worker has run yet, else None.

    An image that does not exist, or a toleration that is missing, can thus be corrected while the pods wait.
    """
    if not status.spec_digests or not _is_untried(status):
        return None
    changed = changes(status.spec_digests, digests(current.spec))
    if not any(path in placement_fields() for path in changed):
        return None
    return scale.start_again(current, status)


def _is_untried(status: TrainingJobStatus) -> bool:
    """Return whether no worker of the job has ever reported."""
    return status.progress.launch is None


def _named(paths: list[str]) -> str:
    return ", ".join(f"spec.{path}" for path in paths)


def _is_accepted(status: TrainingJobStatus, generation: int) -> bool:
    """Return whether just this was accepted before: its digests differ at most because another version makes them."""
    accepted = status.condition(ConditionType.ACCEPTED)
    return accepted is not None and accepted.status == "True" and accepted.observed_generation == generation
