"""The human-readable parts of the status: message and reason, conditions, and the columns of `kubectl get`."""

from collections import Counter
from datetime import datetime

from trainwright.api.amounts import duration_text, quantity_value
from trainwright.api.exit_codes import FailureClass
from trainwright.api.spec.task import order_metrics
from trainwright.api.status import Condition, ConditionType, Metrics, Phase, Progress, Summary, TrainingJobStatus
from trainwright.api.worker import WorkerPhase, WorkerReport
from trainwright.plan import (
    budget,
    elastic,
    placement,
    postmortem,
    queue,
    remedies,
    rendezvous,
    scale,
    start,
    storage,
    unheard,
    unseen,
)
from trainwright.plan.membership import not_allowed, without_pod
from trainwright.plan.pods import WorkerPods
from trainwright.plan.types import Pass

_DOING = {
    WorkerPhase.EVALUATING: "evaluating",
    WorkerPhase.PREDICTING: "writing predictions",
    WorkerPhase.FINISHED: "done, writing results",
}
_WITH_MESSAGE = (ConditionType.QUEUED, ConditionType.COMPLETE, ConditionType.FAILED)
"""Conditions that repeat the message while they hold."""
_ONCE_TRUE = (ConditionType.QUEUED, ConditionType.SUSPENDED)
_SPECIFIC_REASONS = ("OOMKilled", "Evicted", "DeadlineExceeded", "BudgetSpent")
"""Kubernetes' reasons that say more than the class of the failure; its usual one is just Error."""

_STILL_SECONDS = 10
"""After this many seconds without a step, the message mentions it. The workers detect whether training hangs."""


def describe(current: Pass, status: TrainingJobStatus) -> tuple[str, str]:
    """Return (reason, message): what the job is doing, or why it does not run. The message is one line."""
    if budget.stopping(status):
        return _out_of_budget(current)
    match status.phase:
        case Phase.SUSPENDED:
            return _suspended(current, status)
        case Phase.SUCCEEDED | Phase.FAILED:
            return _ended(status)
        case Phase.RUNNING:
            return _running(current, status)
        case Phase.STARTING:
            return _starting(current, status)
        case _:
            return _not_running(current, status)


def _not_running(current: Pass, status: TrainingJobStatus) -> tuple[str, str]:
    given_up = status.starts_given_up and status.failure is not None and status.failure.reason == start.GIVEN_UP
    if status.phase != Phase.QUEUED and given_up:
        return _gave_up(current, status)
    reason, message = _waiting(current, status)
    if status.phase != Phase.QUEUED and status.workers.formerly is not None:
        why, instead = scale.describe(current, status), "Scaling"
    elif status.phase == Phase.RESTARTING:
        why, instead = _restarting(current, status), "Restarting"
    else:
        return reason, message
    return reason if reason != "WorkersPending" else instead, f"{why}; {message}"


def _ended(status: TrainingJobStatus) -> tuple[str, str]:
    failure = status.failure
    if status.phase == Phase.SUCCEEDED or failure is None:
        return str(status.phase), _succeeded(status)
    return failure.reason if failure.reason in _SPECIFIC_REASONS else failure.category, failure.message


def _out_of_budget(current: Pass) -> tuple[str, str]:
    left = current.pods.left(current.now)
    return "BudgetSpent", f"{budget.name(current.spec)} are spent: {left} worker{_s(left)} still saving and stopping"


def deleting(status: TrainingJobStatus, pods: WorkerPods, now: datetime) -> tuple[str, str]:
    """Return (reason, message) of a job that was deleted and is held by a finalizer."""
    if status.phase == Phase.SUCCEEDED:
        return _ended(status)
    left = pods.left(now)
    if left:
        return "Deleting", f"being deleted: {left} worker{_s(left)} still saving and stopping"
    return "Deleting", "being deleted; no worker holds resources: the job stays until its finalizers are removed"


def _suspended(current: Pass, status: TrainingJobStatus) -> tuple[str, str]:
    left = current.pods.left(current.now)
    lost = storage.loss(current, status)
    if left:
        return "Suspending", f"suspending: {left} worker{_s(left)} still saving and stopping{lost}"
    saved = f" at step {status.checkpoints[-1].step}, which is saved" if status.checkpoints else ""
    return "Suspended", f"suspended (spec.suspend){saved}; no worker holds resources{lost}"


def _succeeded(status: TrainingJobStatus) -> str:
    progress = status.progress
    what = f"trained {progress.step} steps" + (f", {progress.epoch} epochs" if progress.total_epochs else "")
    metric = _main_metric(status)
    return f"{what}; {metric}" if metric else what


def _running(current: Pass, status: TrainingJobStatus) -> tuple[str, str]:
    progress = status.progress
    unheard = [pod for pod in current.pods.in_order if pod.silent]
    if unheard:
        where = f"node {unheard[0].node} of worker {unheard[0].index}"
        more = f", and those of {len(unheard) - 1} more," if len(unheard) > 1 else ""
        return "NodeSilent", f"{where}{more} does not answer; waiting for the cluster to give it up"
    if progress.stale and progress.reported_at is not None:
        silent = int((current.now - progress.reported_at).total_seconds())
        return (
            "ReportsOverdue",
            f"no report for {silent} s; {_pods(status, current.pods)} run. Last heard of at {_position(progress)}",
        )
    doing = _DOING.get(current.report.phase, "training") if current.report else "training"
    doing += elastic.share(current, status)
    note = f" ({current.report.message})" if current.report and current.report.message else ""
    note += _standing(current.report) + _straggling(status) + _throttled(current)
    resumed = f", resumed from step {progress.resumed_from_step}" if progress.resumed_from_step else ""
    # The reason is always Training, because a reason that changed at every evaluation would cost a status write each time.
    return "Training", f"{doing}: {_position(progress)}{resumed}{note}"


def _standing(report: WorkerReport | None) -> str:
    """Return a note that no step has ended for longer than all but very slow steps take; empty if one has."""
    if report is None or report.phase != WorkerPhase.TRAINING or not report.heartbeats:
        return ""
    still = min(heartbeat.seconds_ago for heartbeat in report.heartbeats)
    return f"; no step for {still:.0f} s" if still >= _STILL_SECONDS else ""


def _straggling(status: TrainingJobStatus) -> str:
    """Return a note that names the rank for which the others wait at every step; empty if there is none."""
    stragglers = status.metrics.stragglers
    if not stragglers:
        return ""
    slowest = stragglers[0]
    where = f"rank {slowest.rank} (worker {slowest.worker}" + (f" on node {slowest.node})" if slowest.node else ")")
    more = f"; {len(stragglers) - 1} more lag behind" if len(stragglers) > 1 else ""
    return f"; {where} takes {slowest.factor:.3g} times as long for its work as most{more}"


def _throttled(current: Pass) -> str:
    """Return a note that a default of the namespace gives each process less than one CPU; empty if none does."""
    leader = current.pods.newest.get(0)
    if leader is None or "cpu limit" not in leader.defaults:
        return ""
    limit, processes = leader.limits.get("cpu", "0"), current.spec.workers.processes_per_worker
    if quantity_value(limit) >= processes:
        return ""
    return f"; each worker is held to {limit} CPU by the namespace's LimitRange, since spec.workers.resources.limits.cpu is not set"


def _pods(status: TrainingJobStatus, pods: WorkerPods) -> str:
    return "all pods" if pods.running >= status.workers.desired else f"{pods.running} of {status.workers.desired} pods"


def _position(progress: Progress) -> str:
    step = f"step {progress.step}" + (f" of {progress.total_steps}" if progress.total_steps else "")
    if progress.total_epochs:
        return f"epoch {min(progress.epoch + 1, progress.total_epochs)} of {progress.total_epochs}, {step}"
    return step


def _starting(current: Pass, status: TrainingJobStatus) -> tuple[str, str]:
    unanswered = unheard.describe(current, status)
    if unanswered is not None:
        return unheard.REASON, unanswered
    if current.report is None or current.report.phase == WorkerPhase.RENDEZVOUS:
        return rendezvous.REASON, rendezvous.describe(current)
    resumed = (
        f", from the checkpoint at step {current.report.resumed_from_step}" if current.report.resumed_from_step else ""
    )
    note = f" ({current.report.message})" if current.report.message else ""
    return "Preparing", f"preparing the first step{resumed}{note}"


def _gave_up(current: Pass, status: TrainingJobStatus) -> tuple[str, str]:
    """Say why the last start was given up, which the pods can no longer tell, until the next one begins to wait."""
    reason, message = _waiting(current, status)
    if reason not in ("BackingOff", "WorkersPending"):
        return reason, f"{message}; try {status.starts_given_up + 1}"
    cause = status.failure.message if status.failure else ""
    return start.GIVEN_UP, f"{cause}; all pods were given back; try {status.starts_given_up + 1}: {message}"


def _restarting(current: Pass, status: TrainingJobStatus) -> str:
    cause = status.failure.message if status.failure else "a worker failed"
    scope = "all workers start" if status.oldest_attempt == status.attempt else "it is replaced and the others wait"
    if current.spec.workers.count == 1:
        scope = "it starts again"
    lost = storage.loss(current, status) if status.oldest_attempt == status.attempt else ""
    if status.failure is not None and status.failure.category == FailureClass.PREEMPTED:
        return f"{cause}; {scope}: restart {status.restarts}, which counts against no limit{lost}"
    count = f"{status.restarts_without_progress} of at most {current.spec.restart.limit} without progress"
    return f"{cause}; {scope}: restart {status.restarts}, {count}{lost}"


def _waiting(current: Pass, status: TrainingJobStatus) -> tuple[str, str]:
    """Say why not all pods run: what is not allowed or refused, then what the scheduler or a kubelet waits for."""
    count = current.spec.workers.count
    refusal = not_allowed(current.spec, current.observed.settings)
    if refusal is not None and without_pod(current, status):
        return refusal
    if current.observed.rejection:
        refused = remedies.with_remedy(current.spec, "", current.observed.rejection)
        return "CreationRefused", f"the cluster refuses to create a worker: {refused}"
    if status.next_start is not None and current.now < status.next_start:
        return "BackingOff", f"waiting until {status.next_start:%H:%M:%S} UTC"
    if status.phase == Phase.QUEUED:
        return queue.describe(current, status)
    obstacles = Counter(pod.obstacle for pod in current.pods.newest.values() if pod.obstacle and not pod.deleting)
    if obstacles:
        (reason, message), times = obstacles.most_common(1)[0]
        what = "unschedulable" if reason == "Unschedulable" else f"waiting, {reason}"
        said = remedies.with_remedy(current.spec, reason, message)
        return reason, _and(f"{times} of {count} workers {what}: {said}".rstrip(": "), placement.explain(status))
    unseen_by_any = unseen.describe(current)
    if unseen_by_any is not None:
        return unseen.REASON, unseen_by_any
    return "WorkersPending", _and(f"{current.pods.running} of {count} workers run", placement.explain(status))


def _and(text: str, more: str) -> str:
    return f"{text}; {more}" if more else text


def conditions(
    status: TrainingJobStatus, pods: WorkerPods, accepted: tuple[bool, str, str], generation: int, now: datetime
) -> list[Condition]:
    """Return the conditions of a job.

    Args:
        status: The job's status.
        pods: The pods that count.
        accepted: Whether the spec is accepted, with the reason and a message.
        generation: Generation of the spec.
        now: The time of this pass.
    """
    phase, reason = status.phase, status.reason or "Unknown"
    gone = pods.left(now) == 0
    states = [
        (ConditionType.ACCEPTED, *accepted),
        (ConditionType.QUEUED, phase == Phase.QUEUED, reason if phase == Phase.QUEUED else str(phase), ""),
        (ConditionType.RUNNING, phase == Phase.RUNNING, str(phase), ""),
        (ConditionType.SUSPENDED, phase == Phase.SUSPENDED and gone, str(phase), ""),
        (ConditionType.COMPLETE, phase == Phase.SUCCEEDED, str(phase), ""),
        (ConditionType.FAILED, phase == Phase.FAILED, reason if phase == Phase.FAILED else str(phase), ""),
    ]
    return [
        _condition(
            status, kind, holds, why, status.message if holds and kind in _WITH_MESSAGE else text, generation, now
        )
        for kind, holds, why, text in states
        # Some conditions are listed only after they have been true once, because for most jobs they never are.
        if kind not in _ONCE_TRUE or holds or status.condition(kind) is not None
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


def not_accepted(
    status: TrainingJobStatus, pods: WorkerPods, refusal: tuple[str, str], now: datetime
) -> tuple[str, str]:
    """Return (reason, message) of a job whose spec is not accepted, with how its workers ended if they did."""
    if status.phase is not None and status.phase.terminal:
        return _ended(status)
    reason, why = refusal
    failed = [pod for pod in pods.newest.values() if pod.phase == "Failed"]
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
        eta=duration_text(progress.remaining_seconds) if running and progress.remaining_seconds is not None else "",
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
    return next((f"{name} {evaluation.metrics[name]:.4g}" for name in order_metrics(evaluation.metrics)), "")


def _s(number: int) -> str:
    return "" if number == 1 else "s"
