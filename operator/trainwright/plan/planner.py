"""The decision: what there is, to what is to be done. The policies run in the order in which they may overrule each other."""

from datetime import datetime

from trainwright.api.job import InvalidJobError
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import ConditionType, Phase, TrainingJobStatus
from trainwright.api.worker import WorkerReport
from trainwright.plan import (
    absence,
    budget,
    changes,
    elastic,
    forecast,
    goodput,
    inquiry,
    limits,
    membership,
    phase,
    placement,
    progress,
    queue,
    restart,
    scale,
    start,
    storage,
    tell,
)
from trainwright.plan.membership import Crew
from trainwright.plan.types import Event, Observed, Plan
from trainwright.plan.weight import moves_pods, weigh

_RETRY_CREATION = 5.0
"""Seconds after which creations are looked at again, should the cluster tell nothing of what was created."""


def plan(observed: Observed) -> Plan:
    """Return what to do now. The same observation gives the same plan; a settled job gives an empty one."""
    job = observed.job
    if job.deleting:
        return Plan()
    if job.status.phase is not None and job.status.phase.terminal:
        return _keep_house(observed)
    if isinstance(job.spec, InvalidJobError):
        return _stand_by(observed, ("InvalidSpec", str(job.spec)))
    changed = changes.refusal(job.spec, job.status, job.generation)
    if changed is not None:
        return _stand_by(observed, changed)
    refusal = membership.barred(observed, job.spec)
    if refusal is not None and job.status.attempt == 0:
        # Not begun, it can still be corrected: what is trained, and as whom, is fixed with the first attempt.
        return _stand_by(observed, refusal)
    return _drive(observed, job.spec)


def _stand_by(observed: Observed, refusal: tuple[str, str]) -> Plan:
    """A job that is not accepted is not driven: no pod is made or deleted. What becomes of those it has is told."""
    before = observed.job.status
    crew = membership.muster(observed.pods, before)
    heard = progress.newest_report(observed, before, crew)
    status = before if heard is None else progress.record(*heard, before, None, crew)
    if phase.done(crew):
        status = phase.succeed(status, crew, observed.now)
    elif status.phase is None or (status.phase in (Phase.STARTING, Phase.RUNNING) and not crew.runs(0)):
        status = status.model_copy(update={"phase": Phase.PENDING})
    status = progress.expect(observed, status)
    status = _worded(observed, status, crew, tell.refused(status, crew, refusal, observed.now), refusal)
    if status == before:
        return Plan()
    return Plan(status=status, weight=weigh(before, status), events=_events(before, status))


def _keep_house(observed: Observed) -> Plan:
    """A job that ended stays as it is, but for pods that linger, the last word of them, and the end of its time to live."""
    status, spec = observed.job.status, observed.job.spec
    crew = membership.muster(observed.pods, status)
    last = None
    if membership.speaks_of_the_living(status) and all(pod.ended and not pod.deleting for pod in crew.all_pods):
        last = _last_heard(observed, status, crew)
        last = last.model_copy(update={"workers": membership.count(crew, last)})
        last = last if isinstance(spec, InvalidJobError) else storage.forget(observed, spec, last, crew)
        last = last.model_copy(update={"summary": tell.summarize(last)})
    if observed.job.generation != status.observed_generation:
        # Whatever was edited, nothing more comes of it, and who waits for that to be seen is told.
        last = (last or status).model_copy(update={"observed_generation": observed.job.generation})
    delete = membership.to_delete(observed, status, crew)
    expiry = limits.expiry(observed.job, status)
    if expiry is not None and observed.now >= expiry:
        return Plan(delete_job=True)
    lingering = status.finished_at + membership.LINGER if status.finished_at and _any_live(crew) else None
    return Plan(status=last, delete=delete, requeue_after=_until(observed.now, expiry, lingering))


def _last_heard(observed: Observed, status: TrainingJobStatus, crew: Crew) -> TrainingJobStatus:
    """Return the status with what its workers told after it had ended: they save once more when they are told to go."""
    heard = progress.newest_report(observed, status, crew)
    if heard is None or heard[0].launch != status.progress.launch:
        return status
    spec = observed.job.spec
    return progress.record(*heard, status, None if isinstance(spec, InvalidJobError) else spec, crew)


def _any_live(crew: Crew) -> bool:
    return any(pod.live for pod in crew.all_pods)


def _drive(observed: Observed, spec: TrainingJobSpec) -> Plan:
    before = observed.job.status
    crew = membership.muster(observed.pods, before)
    heard = progress.newest_report(observed, before, crew)
    status = queue.stop_clock(before, _settle(observed, spec, crew, heard), observed.now)
    status = storage.forget(observed, spec, progress.expect(observed, status), crew)
    status = changes.record(spec, _speak(observed, spec, status, crew))
    if status != before:
        # The ledger rides along with what is written anyway: it is never a reason to write by itself.
        status = status.model_copy(update={"goodput": goodput.account(observed, spec, status, heard)})
    events = (*_events(before, status), *forecast.events(before, status, observed.now))
    changed = status if status != before else None
    if moves_pods(before, status):
        return Plan(status=changed, weight=weigh(before, status), events=events, requeue_after=0)
    active = status.phase not in (Phase.SUSPENDED, Phase.FAILED, Phase.SUCCEEDED) and not budget.stopping(status)
    create = membership.to_create(observed, spec, status, crew) if active else ()
    return Plan(
        status=changed,
        weight=weigh(before, status),
        delete=membership.to_delete(observed, status, crew),
        create=create,
        events=events,
        inquire=inquiry.subject(observed, status, crew),
        ticket=queue.ticket(spec, status, crew),
        requeue_after=_next_look(observed, spec, status, crew, creating=bool(create) and observed.rejection is None),
    )


def _settle(
    observed: Observed, spec: TrainingJobSpec, crew: Crew, heard: tuple[WorkerReport, datetime] | None
) -> TrainingJobStatus:
    """Return the status with phase, counters, progress and failure as they now are."""
    status = observed.job.status
    if heard is not None:
        status = progress.record(*heard, status, spec, crew)
    if phase.done(crew):
        return phase.succeed(status, crew, observed.now)
    status = limits.enforce_deadline(observed, spec, status)
    status = budget.enforce(observed, spec, status, crew)
    if status.phase == Phase.FAILED or budget.stopping(status):
        return status
    if spec.suspend:
        return phase.suspend(spec, status)
    if status.phase in (None, Phase.SUSPENDED) or status.attempt == 0:
        return phase.begin(spec, status, observed.now)
    scaled = scale.decide(spec, status, observed.now)
    if scaled is not status:
        return scaled
    mended = _mend(observed, spec, status, crew, heard)
    if mended is not status:
        return mended
    status = phase.advance(spec, status, crew, heard[0] if heard else None, observed)
    if status.waiting_since is not None:
        status = membership.step_aside(observed, spec, status, crew)
    status = start.enforce_deadline(observed, spec, status, crew)
    return placement.relent(observed, status, crew.newest.values())


def _mend(
    observed: Observed,
    spec: TrainingJobSpec,
    status: TrainingJobStatus,
    crew: Crew,
    heard: tuple[WorkerReport, datetime] | None,
) -> TrainingJobStatus:
    """Return the status with what has failed dealt with; the very same if nothing has."""
    moved = restart.move(observed, status)
    if moved is not status:
        return moved
    decided = restart.decide(observed, spec, status, crew)
    if decided is not status:
        return decided
    return absence.enforce(observed, spec, status, crew, heard)


def _speak(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> TrainingJobStatus:
    """Return the status with its counts, words, conditions and columns.

    The report is asked for again, since a restart or a suspension decided just now makes the former launch's reports moot.
    """
    heard = progress.newest_report(observed, status, crew)
    reason, message = tell.describe(observed, spec, status, crew, heard[0] if heard else None)
    risk = forecast.forecast(spec, status, observed.now)
    if risk is not None:
        message = f"{message}; {risk.text}"
    fewer = elastic.shortage(status, crew, observed.rejection)
    risk = risk or (forecast.Risk(elastic.REASON, fewer) if fewer else None)
    return _worded(observed, status, crew, (reason, message), membership.barred(observed, spec), risk)


def _worded(
    observed: Observed,
    status: TrainingJobStatus,
    crew: Crew,
    words: tuple[str, str],
    refusal: tuple[str, str] | None,
    risk: forecast.Risk | None = None,
) -> TrainingJobStatus:
    """Return the status with these words, as (reason, message), and with what is counted and put together from the rest."""
    reason, message = words
    generation = observed.job.generation
    status = status.model_copy(
        update={
            "workers": membership.count(crew, status),
            "reason": reason,
            "message": message,
            "observed_generation": generation,
        }
    )
    spoken = tell.conditions(status, crew, refusal, generation, observed.now)
    degraded = forecast.condition(status.condition(ConditionType.DEGRADED), risk, generation, observed.now)
    spoken += [] if degraded is None else [degraded]
    return status.model_copy(update={"conditions": spoken, "summary": tell.summarize(status)})


def _events(before: TrainingJobStatus, status: TrainingJobStatus) -> tuple[Event, ...]:
    scaled = scale.events(before, status)
    return (*(scaled or _milestones(before, status)), *placement.events(before, status), *_refusals(before, status))


def _refusals(before: TrainingJobStatus, status: TrainingJobStatus) -> tuple[Event, ...]:
    was, accepted = (each.condition(ConditionType.ACCEPTED) for each in (before, status))
    if accepted is None or accepted.status == "True" or (was is not None and was.message == accepted.message):
        return ()
    return (Event(accepted.reason, accepted.message, warning=True),)


def _milestones(before: TrainingJobStatus, status: TrainingJobStatus) -> tuple[Event, ...]:
    if status.starts_given_up > before.starts_given_up and status.failure is not None:
        return (Event(start.GIVEN_UP, status.failure.message, warning=True),)
    if status.phase == before.phase and status.restarts == before.restarts:
        return ()
    told = status.phase in (Phase.RESTARTING, Phase.FAILED, Phase.SUCCEEDED)
    if status.restarts > before.restarts and not told and status.failure != before.failure:
        return (Event("Relaunched", _relaunched(status), warning=True),)
    match status.phase:
        case Phase.SUCCEEDED:
            return (Event("Succeeded", status.message),)
        case Phase.FAILED:
            return (Event("Failed", status.message, warning=True),)
        case Phase.RESTARTING:
            return (Event("Restarting", status.message, warning=True),)
        case Phase.SUSPENDED:
            return (Event("Suspended", status.message),)
        case _:
            return ()


def _relaunched(status: TrainingJobStatus) -> str:
    cause = status.failure.message if status.failure else ""
    return f"{cause}; all processes were started again inside their pods: restart {status.restarts}"


def _next_look(
    observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew, *, creating: bool
) -> float | None:
    moments = (
        limits.deadline(spec, status),
        budget.spent_at(spec, observed.job.status, observed.now),
        progress.stale_at(observed, status),
        start.deadline(spec, status),
        inquiry.due(status, crew),
        placement.patience_ends(status),
        status.next_start,
        *membership.terminations(crew, observed.now),
    )
    # What is over was dealt with in this pass; to look again at once would be to look for ever.
    ahead = (moment for moment in moments if moment is not None and moment > observed.now)
    soonest = _until(observed.now, *ahead, limits.expiry(observed.job, status))
    if creating:
        return _RETRY_CREATION if soonest is None else min(soonest, _RETRY_CREATION)
    return soonest


def _until(now: datetime, *moments: datetime | None) -> float | None:
    """Return the seconds until the first of these moments, at least 0; None when there is none."""
    return min((max(0.0, (moment - now).total_seconds()) for moment in moments if moment is not None), default=None)
