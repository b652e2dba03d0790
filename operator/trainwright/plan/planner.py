"""The planner: decides from the observed state what to do. The policies run in order of precedence."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final

from trainwright.api.amounts import later
from trainwright.api.cautions import cautions
from trainwright.api.job import InvalidJobError
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import ConditionType, Phase, TrainingJobStatus
from trainwright.plan import (
    budget,
    changes,
    classes,
    elastic,
    forecast,
    goodput,
    limits,
    membership,
    messages,
    ownership,
    phase,
    placement,
    pod_warnings,
    progress,
    queue,
    restart,
    scale,
    start,
    storage,
    unheard,
    unresponsive,
    unseen,
)
from trainwright.plan.events import events
from trainwright.plan.pods import WorkerPods
from trainwright.plan.types import Observed, Pass, Plan
from trainwright.plan.urgency import moves_pods, urgency

_RETRY_CREATION = 5.0
"""Seconds after which creations are checked, in case no watch tells of what was created."""
_RESTARTS: Final[tuple[Callable[[Pass, TrainingJobStatus], TrainingJobStatus | None], ...]] = (
    changes.decide,
    scale.decide,
    restart.move,
    restart.decide,
    unresponsive.decide,
)
"""Policies that may restart workers. The first one that decides on a restart wins, and later ones do not run."""


def plan(observed: Observed) -> Plan:
    """Return what to do now. The same observation gives the same plan; a settled job gives an empty one."""
    terms = classes.resolve(observed)
    observed = terms.observed
    job = observed.job
    if ownership.is_of_another(observed):
        return Plan(requeue_after=ownership.LOOK)
    if job.status.phase is not None and job.status.phase.terminal:
        return _finished(observed)
    if job.deleting:
        return _deleting(observed)
    if isinstance(job.spec, InvalidJobError):
        return _not_accepted(observed, ("InvalidSpec", str(job.spec)))
    changed = changes.refusal(job.spec, job.status, job.generation)
    if changed is not None:
        return _not_accepted(observed, changed)
    if terms.refusal is not None:
        # Nothing tells when a class changes.
        return replace(_not_accepted(observed, terms.refusal), requeue_after=classes.LOOK_AGAIN)
    refusal = membership.not_allowed(job.spec, observed.settings)
    if refusal is not None and job.status.attempt == 0:
        # Before the first attempt the spec can still be corrected: what is trained, and as whom, is fixed with that attempt.
        return _not_accepted(observed, refusal)
    return _active(_pass(terms, job.spec))


def _pass(terms: classes.Terms, spec: TrainingJobSpec) -> Pass:
    observed, status = terms.observed, terms.observed.job.status
    pods = WorkerPods.of(observed.pods, status)
    received = progress.newest_report(observed, status, pods)
    return Pass(observed, spec, pods, received, terms.applied, terms.full)


def _not_accepted(observed: Observed, refusal: tuple[str, str]) -> Plan:
    """Plan for a job whose spec is not accepted: no pod is made or deleted, and what becomes of existing pods is reported."""
    before = observed.job.status
    pods = WorkerPods.of(observed.pods, before)
    received = progress.newest_report(observed, before, pods)
    status = before if received is None else progress.record(received, before, None, pods)
    if phase.done(pods):
        status = phase.succeed(status, pods, observed.now)
    elif status.phase is None or (status.phase in (Phase.STARTING, Phase.RUNNING) and not pods.runs(0)):
        status = status.changed(phase=Phase.PENDING)
    status = progress.expect(observed, status)
    message = messages.not_accepted(status, pods, refusal, observed.now)
    status = _with_messages(observed, status, pods, message, refusal)
    if status == before:
        return Plan()
    return Plan(status=status, urgency=urgency(before, status), events=events(before, status))


def _deleting(observed: Observed) -> Plan:
    """Plan for a job that was deleted and is held by a finalizer: its workers save and stop as if it were suspended."""
    job, before, now = observed.job, observed.job.status, observed.now
    pods = WorkerPods.of(observed.pods, before)
    received = progress.newest_report(observed, before, pods)
    status = before if received is None else progress.record(received, before, None, pods)
    if phase.done(pods):
        status = phase.succeed(status, pods, now)
    else:
        status = status.changed(phase=Phase.SUSPENDED, started_at=None, next_start=None, waiting_since=None)
    status = progress.expect(observed, status)
    refusal = ("InvalidSpec", str(job.spec)) if isinstance(job.spec, InvalidJobError) else None
    status = _with_messages(observed, status, pods, messages.deleting(status, pods, now), refusal)
    changed = status if status != before else None
    return Plan(
        status=changed,
        urgency=urgency(before, status),
        delete=membership.to_delete(pods, status, now),
        events=events(before, status),
        requeue_after=_until(now, *(moment for moment in pods.terminations(now) if moment > now)),
    )


def _finished(observed: Observed) -> Plan:
    """Plan for a job that has ended: delete pods that linger, record their last report, delete the job at its expiry."""
    status, job, now = observed.job.status, observed.job, observed.now
    pods = WorkerPods.of(observed.pods, status)
    last = None
    if membership.lists_unfinished(status) and all(pod.ended and not pod.deleting for pod in pods.all):
        last = _with_last_report(observed, status, pods)
    if job.generation != status.observed_generation:
        # An edit no longer has any effect, but clients may wait for observedGeneration to include it.
        last = (last or status).changed(observed_generation=job.generation)
    delete = membership.to_delete(pods, status, now)
    expiry = None if job.deleting else limits.expiry(job, status)
    if expiry is not None and now >= expiry:
        return Plan(delete_job=True)
    any_live = any(pod.live for pod in pods.all)
    lingering = status.finished_at + membership.LINGER if status.finished_at and any_live else None
    return Plan(status=last, delete=delete, requeue_after=_until(now, expiry, lingering))


def _with_last_report(observed: Observed, status: TrainingJobStatus, pods: WorkerPods) -> TrainingJobStatus:
    """Return the status with what workers reported after the job ended: told to stop, they save once more."""
    spec = None if isinstance(observed.job.spec, InvalidJobError) else observed.job.spec
    received = progress.newest_report(observed, status, pods)
    if received is not None and received.report.launch == status.progress.launch:
        status = progress.record(received, status, spec, pods)
    status = status.changed(workers=membership.count(pods, status))
    if spec is not None:
        status = storage.forget(Pass(observed, spec, pods, received), status)
    return status.changed(summary=messages.summarize(status))


def _active(current: Pass) -> Plan:
    """Plan for a job that has not ended."""
    before = current.job.status
    status = queue.stop_clock(current, _settle(current))
    status = storage.forget(current, progress.expect(current.observed, status))
    status = changes.record(current.spec, _describe(current, status))
    if status != before:
        # A change in the goodput breakdown alone is not a reason to write the status.
        status = status.changed(goodput=goodput.account(current, status))
    news = (*events(before, status), *forecast.events(before, status, current.now))
    changed = status if status != before else None
    if moves_pods(before, status):
        return Plan(status=changed, urgency=urgency(before, status), events=news, requeue_after=0)
    idle = status.phase in (Phase.SUSPENDED, Phase.FAILED, Phase.SUCCEEDED) or classes.is_held(status)
    active = not idle and not budget.stopping(status)
    create = membership.to_create(current, status) if active else ()
    return Plan(
        status=changed,
        urgency=urgency(before, status),
        delete=membership.to_delete(current.pods, status, current.now),
        create=create,
        events=news,
        warnings_of=pod_warnings.subject(current, status),
        queue_entry=queue.entry(current, status),
        requeue_after=_next_look(current, status, creating=bool(create) and current.observed.rejection is None),
    )


def _settle(current: Pass) -> TrainingJobStatus:
    """Return the status with phase, counters, progress and failure as they now are."""
    status = current.job.status
    if current.received is not None:
        status = progress.record(current.received, status, current.spec, current.pods)
    if phase.done(current.pods):
        return phase.succeed(status, current.pods, current.now)
    status = budget.enforce(current, limits.enforce_deadline(current, status))
    if status.phase == Phase.FAILED or budget.stopping(status):
        return status
    if current.spec.suspend:
        return phase.suspend(current, status)
    if classes.is_idle(status):
        return phase.begin(current, status) if current.full is None else classes.hold(status)
    for policy in _RESTARTS:
        decided = policy(current, status)
        if decided is not None:
            return decided
    status = phase.advance(current, status)
    if status.waiting_since is not None:
        status = membership.skip_taken_names(current, status)
    return placement.waive(current, start.enforce_deadline(current, status))


def _describe(current: Pass, status: TrainingJobStatus) -> TrainingJobStatus:
    """Return the status with its counts, message, conditions and columns.

    The report is looked up again: if a restart or a suspension was decided just now, that of the former launch is outdated.
    """
    current = replace(current, received=progress.newest_report(current.observed, status, current.pods))
    reason, message = messages.describe(current, status)
    risk = forecast.forecast(current.spec, status, current.now)
    if risk is not None:
        message = f"{message}; {risk.text}"
    shortage = elastic.shortage(current, status)
    risk = risk or (forecast.Risk(elastic.REASON, shortage) if shortage else None)
    refusal = membership.not_allowed(current.spec, current.observed.settings)
    return _with_messages(current.observed, status, current.pods, (reason, message), refusal, risk)


def _with_messages(
    observed: Observed,
    status: TrainingJobStatus,
    pods: WorkerPods,
    message: tuple[str, str],
    refusal: tuple[str, str] | None,
    risk: forecast.Risk | None = None,
) -> TrainingJobStatus:
    """Return the status with this (reason, message), and with the counts, conditions and columns that follow."""
    generation = observed.job.generation
    status = status.changed(
        workers=membership.count(pods, status), reason=message[0], message=message[1], observed_generation=generation
    )
    accepted = (True, "Accepted", _cautions(observed)) if refusal is None else (False, *refusal)
    conditions = messages.conditions(status, pods, accepted, generation, observed.now)
    degraded = forecast.condition(status.condition(ConditionType.DEGRADED), risk, generation, observed.now)
    conditions += [] if degraded is None else [degraded]
    release = observed.settings.release or ""
    return status.changed(operator=release, conditions=conditions, summary=messages.summarize(status))


def _cautions(observed: Observed) -> str:
    """Return what the accepted spec asks for and will probably not get."""
    spec = observed.job.spec
    return "" if isinstance(spec, InvalidJobError) else "; ".join(map(str, cautions(spec)))


def _next_look(current: Pass, status: TrainingJobStatus, *, creating: bool) -> float | None:
    """Return after how many seconds something is due even if nothing happens, or None."""
    moments = (
        limits.deadline(current.spec, status),
        budget.spent_at(current.spec, current.job.status, current.now),
        progress.stale_at(current.observed, status),
        start.deadline(current.spec, status),
        pod_warnings.due(current, status),
        unseen.due(current),
        *unheard.due(current, status),
        placement.patience_ends(status),
        status.next_start,
        *current.pods.terminations(current.now),
    )
    # This pass has handled everything that is past. Requeueing for past times would loop forever.
    ahead = (moment for moment in moments if moment is not None and moment > current.now)
    held = later(current.now, classes.LOOK_AGAIN) if classes.is_held(status) else None
    soonest = _until(current.now, *ahead, limits.expiry(current.job, status), held)
    if creating:
        return _RETRY_CREATION if soonest is None else min(soonest, _RETRY_CREATION)
    return soonest


def _until(now: datetime, *moments: datetime | None) -> float | None:
    """Return the seconds until the first of these moments, at least 0; None when there is none."""
    return min((max(0.0, (moment - now).total_seconds()) for moment in moments if moment is not None), default=None)
