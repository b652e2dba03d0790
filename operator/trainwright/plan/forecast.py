"""Warnings about a deadline that will be missed or a budget that will run out at the current rate.

Estimates vary. A warning begins when the miss is clear, by a tenth of the time left and at least a minute, and ends when the
limit would be kept again; in between it stays as it was. Without an estimate, after a restart, it stays too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from trainwright.api.amounts import duration_text
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Condition, ConditionType, Phase, TrainingJobStatus
from trainwright.plan import budget, limits
from trainwright.plan.types import Event

_CLEAR_SHARE = 0.1
_CLEAR_SECONDS = 60.0
_REASONS = ("DeadlineAtRisk", "BudgetAtRisk")
_QUIET = timedelta(hours=1)
"""A warning that comes back sooner than this causes no further Event."""


@dataclass(frozen=True)
class Risk:
    """Something that will go wrong.

    Attributes:
        reason: The reason of the condition.
        text: Its message, in a sentence.
    """

    reason: str
    text: str


def forecast(spec: TrainingJobSpec, status: TrainingJobStatus, now: datetime) -> Risk | None:
    """Return what will go wrong if training goes on as it does, or None."""
    before = status.condition(ConditionType.DEGRADED)
    warned = before is not None and before.status == "True" and before.reason in _REASONS
    if status.phase is None or status.phase.terminal or status.phase == Phase.SUSPENDED or budget.stopping(status):
        return None
    eta = status.progress.eta
    if status.phase != Phase.RUNNING or eta is None or status.progress.stale:
        return Risk(before.reason, before.message) if before is not None and warned else None
    left = max(0.0, (eta - now).total_seconds())
    clear = max(_CLEAR_SECONDS, _CLEAR_SHARE * left)
    misses = [(late, warning) for late, warning in _misses(spec, status, now, eta) if late > (0.0 if warned else clear)]
    return max(misses, key=lambda miss: miss[0])[1] if misses else None


def _misses(
    spec: TrainingJobSpec, status: TrainingJobStatus, now: datetime, eta: datetime
) -> Iterator[tuple[float, Risk]]:
    """Yield by how many seconds each limit comes before the end of training, and the risk."""
    deadline = limits.deadline(spec, status)
    if deadline is not None:
        late = (eta - deadline).total_seconds()
        text = f"at this rate it will miss spec.activeDeadlineSeconds by {duration_text(max(0.0, late))}"
        yield late, Risk("DeadlineAtRisk", text)
    spent = budget.spent_at(spec, status, now)
    if spent is not None:
        late = (eta - spent).total_seconds()
        ahead = duration_text(max(0.0, late))
        yield late, Risk("BudgetAtRisk", f"at this rate {budget.name(spec)} will be spent {ahead} before the end")


def condition(before: Condition | None, warning: Risk | None, generation: int, now: datetime) -> Condition | None:
    """Return the condition Degraded; None if it was never true."""
    if warning is None and before is None:
        return None
    value = str(warning is not None)
    changed = before is None or before.status != value
    return Condition(
        type=ConditionType.DEGRADED,
        status=value,
        reason=warning.reason if warning is not None else "AsExpected",
        message=warning.text if warning is not None else "",
        last_transition_time=now if changed or before is None else before.last_transition_time,
        observed_generation=generation,
    )


def events(before: TrainingJobStatus, status: TrainingJobStatus, now: datetime) -> tuple[Event, ...]:
    """Return the one Event of a warning that begins."""
    was, is_now = (each.condition(ConditionType.DEGRADED) for each in (before, status))
    if is_now is None or is_now.status != "True" or (was is not None and was.status == "True"):
        return ()
    if was is not None and now - was.last_transition_time < _QUIET:
        return ()
    return (Event(is_now.reason, is_now.message, warning=True),)
