"""What the status says in words: message and reason, conditions, and the columns of `kubectl get`."""

from collections import Counter
from datetime import datetime

from trainwright.api.exit_codes import FailureClass
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Condition, ConditionType, Metrics, Phase, Progress, Summary, TrainingJobStatus
from trainwright.api.worker import WorkerPhase, WorkerReport
from trainwright.plan import budget, elastic, gathering, placement, postmortem, queue, scale, start, storage
from trainwright.plan.membership import Crew, barred, is_over, without_pod
from trainwright.plan.types import Observed
from trainwright.plan.words import duration

_DOING = {
    WorkerPhase.EVALUATING: "evaluating",
    WorkerPhase.PREDICTING: "writing predictions",
    WorkerPhase.FINISHED: "done, writing results",
}
_TELLING = (ConditionType.QUEUED, ConditionType.COMPLETE, ConditionType.FAILED)
"""Conditions that repeat the message while they hold."""
_SELDOM = (ConditionType.QUEUED, ConditionType.SUSPENDED)
_TELLING_REASONS = ("OOMKilled", "Evicted", "DeadlineExceeded", "BudgetSpent")
"""Kubernetes' reasons that say more than the class of the failure; its usual one is just Error."""

_STILL_SECONDS = 10
"""From when on training that stands still is worth a word; whether it hangs, the workers know better."""


def describe(
    observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew, report: WorkerReport | None
) -> tuple[str, str]:
    """Return (reason, message): in one word and in one honest line, what the job does or why it does not run."""
    if budget.stopping(status):
        return _out_of_budget(observed, spec, crew)
    match status.phase:
        case Phase.SUSPENDED:
            return _suspended(observed, spec, status, crew)
        case Phase.SUCCEEDED | Phase.FAILED:
            return _ended(status)
        case Phase.RUNNING:
            return _running(observed, status, crew, report)
        case Phase.STARTING:
            return _starting(observed, spec, crew, report)
        case _:
            return _not_running(observed, spec, status, crew)


def _not_running(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> tuple[str, str]:
    given_up = status.starts_given_up and status.failure is not None and status.failure.reason == start.GIVEN_UP
    if status.phase != Phase.QUEUED and given_up:
        return _gave_up(observed, spec, status, crew)
    reason, message = _waiting(observed, spec, status, crew)
    if status.phase != Phase.QUEUED and status.workers.formerly is not None:
        why, instead = scale.describe(status, crew, observed.now), "Scaling"
    elif status.phase == Phase.RESTARTING:
        why, instead = _restarting(observed, spec, status), "Restarting"
    else:
        return reason, message
    return reason if reason != "WorkersPending" else instead, f"{why}; {message}"


def _ended(status: TrainingJobStatus) -> tuple[str, str]:
    failure = status.failure
    if status.phase == Phase.SUCCEEDED or failure is None:
        return str(status.phase), _succeeded(status)
    return failure.reason if failure.reason in _TELLING_REASONS else failure.category, failure.message


def _out_of_budget(observed: Observed, spec: TrainingJobSpec, crew: Crew) -> tuple[str, str]:
    left = sum(not is_over(pod, observed.now) for pod in crew.all_pods)
    return "BudgetSpent", f"{budget.name(spec)} are spent: {left} worker{_s(left)} still saving and stopping"


def _suspended(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> tuple[str, str]:
    left = sum(not is_over(pod, observed.now) for pod in crew.all_pods)
    lost = storage.loss(observed, spec, status)
    if left:
        return "Suspending", f"suspending: {left} worker{_s(left)} still saving and stopping{lost}"
    saved = f" at step {status.checkpoints[-1].step}, which is saved" if status.checkpoints else ""
    return "Suspended", f"suspended (spec.suspend){saved}; no worker holds resources{lost}"


def _succeeded(status: TrainingJobStatus) -> str:
    progress = status.progress
    what = f"trained {progress.step} steps" + (f", {progress.epoch} epochs" if progress.total_epochs else "")
    metric = _main_metric(status)
    return f"{what}; {metric}" if metric else what


def _running(observed: Observed, status: TrainingJobStatus, crew: Crew, report: WorkerReport | None) -> tuple[str, str]:
    progress = status.progress
    unheard = [pod for _, pod in sorted(crew.newest.items()) if pod.silent]
    if unheard:
        where = f"node {unheard[0].node} of worker {unheard[0].index}"
        more = f", and those of {len(unheard) - 1} more," if len(unheard) > 1 else ""
        return "NodeSilent", f"{where}{more} does not answer; waiting for the cluster to give it up"
    if progress.stale and progress.reported_at is not None:
        silent = int((observed.now - progress.reported_at).total_seconds())
        return (
            "ReportsOverdue",
            f"no report for {silent} s; {_pods(status, crew)} run. Last heard of at {_position(progress)}",
        )
    doing = _DOING.get(report.phase, "training") if report else "training"
    doing += elastic.share(status, crew, observed.rejection)
    note = f" ({report.message})" if report and report.message else ""
    note += _standing(report) + _straggling(status)
    resumed = f", resumed from step {progress.resumed_from_step}" if progress.resumed_from_step else ""
    # The reason stays Training throughout: a word that flips at every evaluation would cost a write each time.
    return "Training", f"{doing}: {_position(progress)}{resumed}{note}"


def _standing(report: WorkerReport | None) -> str:
    """Say that training stands still, for longer than anything but a very slow step takes."""
    if report is None or report.phase != WorkerPhase.TRAINING or not report.heartbeats:
        return ""
    still = min(heartbeat.seconds_ago for heartbeat in report.heartbeats)
    return f"; no step for {still:.0f} s" if still >= _STILL_SECONDS else ""


def _straggling(status: TrainingJobStatus) -> str:
    """Name the rank that the others wait for at every step."""
    stragglers = status.metrics.stragglers
    if not stragglers:
        return ""
    slowest = stragglers[0]
    where = f"rank {slowest.rank} (worker {slowest.worker}" + (f" on node {slowest.node})" if slowest.node else ")")
    more = f"; {len(stragglers) - 1} more lag behind" if len(stragglers) > 1 else ""
    return f"; {where} takes {slowest.factor:.3g} times as long for its work as most{more}"


def _pods(status: TrainingJobStatus, crew: Crew) -> str:
    return "all pods" if crew.running >= status.workers.desired else f"{crew.running} of {status.workers.desired} pods"


def _position(progress: Progress) -> str:
    step = f"step {progress.step}" + (f" of {progress.total_steps}" if progress.total_steps else "")
    if progress.total_epochs:
        return f"epoch {min(progress.epoch + 1, progress.total_epochs)} of {progress.total_epochs}, {step}"
    return step


def _starting(observed: Observed, spec: TrainingJobSpec, crew: Crew, report: WorkerReport | None) -> tuple[str, str]:
    if report is None or report.phase == WorkerPhase.RENDEZVOUS:
        return gathering.REASON, gathering.describe(observed, spec.workers.count, crew, report)
    resumed = f", from the checkpoint at step {report.resumed_from_step}" if report.resumed_from_step else ""
    note = f" ({report.message})" if report.message else ""
    return "Preparing", f"preparing the first step{resumed}{note}"


def _gave_up(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> tuple[str, str]:
    """Say why the last start was given up, which the pods can no longer tell, until the next one begins to wait."""
    reason, message = _waiting(observed, spec, status, crew)
    if reason not in ("BackingOff", "WorkersPending"):
        return reason, f"{message}; try {status.starts_given_up + 1}"
    cause = status.failure.message if status.failure else ""
    return start.GIVEN_UP, f"{cause}; all pods were given back; try {status.starts_given_up + 1}: {message}"


def _restarting(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus) -> str:
    cause = status.failure.message if status.failure else "a worker failed"
    scope = "all workers start" if status.oldest_attempt == status.attempt else "it is replaced and the others wait"
    if spec.workers.count == 1:
        scope = "it starts again"
    lost = storage.loss(observed, spec, status) if status.oldest_attempt == status.attempt else ""
    if status.failure is not None and status.failure.category == FailureClass.PREEMPTED:
        return f"{cause}; {scope}: restart {status.restarts}, which counts against no limit{lost}"
    count = f"{status.restarts_without_progress} of at most {spec.restart.limit} without progress"
    return f"{cause}; {scope}: restart {status.restarts}, {count}{lost}"


def _waiting(observed: Observed, spec: TrainingJobSpec, status: TrainingJobStatus, crew: Crew) -> tuple[str, str]:
    """Say why not all pods run: what is not allowed or refused, then what the scheduler or a kubelet waits for."""
    count = spec.workers.count
    refusal = barred(observed, spec)
    if refusal is not None and without_pod(spec, status, crew):
        return refusal
    if observed.rejection:
        return "CreationRefused", f"the cluster refuses to create a worker: {observed.rejection}"
    if status.next_start is not None and observed.now < status.next_start:
        return "BackingOff", f"waiting until {status.next_start:%H:%M:%S} UTC"
    if status.phase == Phase.QUEUED:
        return queue.describe(observed, spec, status, crew)
    obstacles = Counter(pod.obstacle for pod in crew.newest.values() if pod.obstacle and not pod.deleting)
    if obstacles:
        (reason, message), times = obstacles.most_common(1)[0]
        what = "unschedulable" if reason == "Unschedulable" else f"waiting, {reason}"
        return reason, _and(f"{times} of {count} workers {what}: {message}".rstrip(": "), placement.explain(status))
    return "WorkersPending", _and(f"{crew.running} of {count} workers run", placement.explain(status))


def _and(text: str, more: str) -> str:
    return f"{text}; {more}" if more else text


def conditions(
    status: TrainingJobStatus, crew: Crew, refusal: tuple[str, str] | None, generation: int, now: datetime
) -> list[Condition]:
    """Return the conditions of a job.

    Args:
        status: The job's status.
        crew: The pods that count.
        refusal: Why the spec is not accepted, as (reason, message), or None if it is.
        generation: Generation of the spec.
        now: The time of this pass.
    """
    phase, reason = status.phase, status.reason or "Unknown"
    gone = all(is_over(pod, now) for pod in crew.all_pods)
    verdicts = [
        (ConditionType.ACCEPTED, refusal is None, *(refusal or ("Accepted", ""))),
        (ConditionType.QUEUED, phase == Phase.QUEUED, reason if phase == Phase.QUEUED else str(phase), ""),
        (ConditionType.RUNNING, phase == Phase.RUNNING, str(phase), ""),
        (ConditionType.SUSPENDED, phase == Phase.SUSPENDED and gone, str(phase), ""),
        (ConditionType.COMPLETE, phase == Phase.SUCCEEDED, str(phase), ""),
        (ConditionType.FAILED, phase == Phase.FAILED, reason if phase == Phase.FAILED else str(phase), ""),
    ]
    return [
        _condition(status, kind, holds, why, status.message if holds and kind in _TELLING else text, generation, now)
        for kind, holds, why, text in verdicts
        # These are only spoken of once they were ever true: most jobs never are.
        if kind not in _SELDOM or holds or status.condition(kind) is not None
    ]


def _condition(
    status: TrainingJobStatus,
    kind: ConditionType,
    holds: bool,  # noqa: FBT001 - a condition is a truth value with a name
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> Condition:
    before = status.condition(kind)
    value = str(holds)
    return Condition(
        type=kind,
        status=value,
        reason=reason,
        message=message,
        last_transition_time=before.last_transition_time if before and before.status == value else now,
        observed_generation=generation,
    )


def refused(status: TrainingJobStatus, crew: Crew, refusal: tuple[str, str], now: datetime) -> tuple[str, str]:
    """Return (reason, message) of a job whose spec is not accepted. What its workers come to all the same is said too."""
    if status.phase is not None and status.phase.terminal:
        return _ended(status)
    reason, why = refusal
    failed = [pod for pod in crew.newest.values() if pod.phase == "Failed"]
    if not failed:
        return reason, f"not accepted: {why}"
    what = postmortem.explain(failed, status.attempt, now).message
    return reason, f"{what}; nothing is started again, since the job is not accepted: {why}"


def summarize(status: TrainingJobStatus) -> Summary:
    """Return the columns of `kubectl get`."""
    progress, metrics, workers = status.progress, status.metrics, status.workers
    running = status.phase == Phase.RUNNING
    return Summary(
        progress=f"{progress.percent}%" if progress.total_steps else "",
        eta=duration(progress.remaining_seconds) if running and progress.remaining_seconds is not None else "",
        loss="" if metrics.loss is None else f"{metrics.loss:.4g}",
        metric=_main_metric(status),
        workers=f"{workers.training if running and workers.training is not None else workers.ready}/{workers.desired}",
        throughput=_throughput(metrics) if running else "",
    )


def _throughput(metrics: Metrics) -> str:
    if metrics.tokens_per_second:
        return f"{metrics.tokens_per_second:,.0f} tokens/s"
    return f"{metrics.samples_per_second:,.0f}/s" if metrics.samples_per_second else ""


def _main_metric(status: TrainingJobStatus) -> str:
    evaluation = status.metrics.evaluation
    if evaluation is None:
        return ""
    for name in ("accuracy", "r2", "perplexity", "character-error-rate", "loss"):
        if name in evaluation.metrics:
            return f"{name} {evaluation.metrics[name]:.4g}"
    return ""


def _s(number: int) -> str:
    return "" if number == 1 else "s"
