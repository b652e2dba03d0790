"""A change of what may not change once workers were started: refused, also where no policy of the API server refuses it.

The status holds a digest of each such field as it was when the spec was last accepted. A spec that differs is not carried out:
work that runs is left alone, and goes on being looked after once the spec is put back.
"""

from trainwright.api.immutable import COUNT, COUNT_REFUSAL, REFUSAL, changes, digests
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import ConditionType, TrainingJobStatus

REASON = "SpecChanged"


def refusal(spec: TrainingJobSpec, status: TrainingJobStatus, generation: int) -> tuple[str, str] | None:
    """Return why this generation of the spec is not carried out, as (reason, message), or None."""
    if not status.spec_digests or _is_accepted(status, generation):
        return None
    changed = changes(status.spec_digests, digests(spec))
    fixed = [f"spec.{path}" for path in changed if path != COUNT]
    said = [f"{', '.join(fixed)} {REFUSAL}"] if fixed else []
    if COUNT in changed and status.progress.step > 0 and not spec.checkpoint.durable:
        said.append(f"spec.{COUNT} {COUNT_REFUSAL}")
    return (REASON, "; ".join(said)) if said else None


def record(spec: TrainingJobSpec, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status of an accepted spec with what may not change from now on. Before the first start all of it may."""
    return status.changed(spec_digests=digests(spec)) if status.attempt else status


def _is_accepted(status: TrainingJobStatus, generation: int) -> bool:
    """Return whether just this was accepted before: its digests differ at most because another version makes them."""
    accepted = status.condition(ConditionType.ACCEPTED)
    return accepted is not None and accepted.status == "True" and accepted.observed_generation == generation
