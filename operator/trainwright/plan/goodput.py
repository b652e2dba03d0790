"""Accounts for a job's time: every second since its creation is attributed to exactly one activity.

Rank 0 reports how many seconds of its launch went into what. What has been charged of that is remembered, so a report that
comes twice, late, or after the operator was away adds only what is new. Time that no report covers is charged to the phase
that the status was in. While training runs, the ledger ends at the newest report: the time since then is charged with the
next report, or when the phase ends without one. It is not charged earlier, because the operator itself may have been unable
to receive reports. Seconds are whole: their sum is exactly the time from creation to `until`.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from trainwright.api.exit_codes import FailureClass
from trainwright.api.status import Goodput, LaunchSeconds, Phase, TrainingJobStatus
from trainwright.api.worker import WorkerReport
from trainwright.plan.types import Pass

_WAITS = {
    None: "pending",
    Phase.QUEUED: "queued",
    Phase.PENDING: "pending",
    Phase.STARTING: "starting",
    Phase.RESTARTING: "restarting",
    Phase.SUSPENDED: "suspended",
}
_REPORTED = {"loading": "starting"} | {kind: kind for kind in ("checkpointing", "evaluating", "stalled")}
"""What the parts of a report are charged to; training is split into progress and replay."""
_INACTIVE = ("queued", "pending", "suspended")
_COMPUTING = ("training", "replaying", "evaluating")


def account(current: Pass, status: TrainingJobStatus) -> Goodput:
    """Return the ledger up to now.

    Args:
        current: The pass; its job's status holds the ledger and the phase that the ledger was written in.
        status: The status that is about to be written.
    """
    before = current.job.status
    ledger = before.goodput or Goodput(until=_whole(min(current.job.created_at, current.now)))
    report = current.report
    until = max(ledger.until, _whole(_end(current, status)))
    span = int((until - ledger.until).total_seconds())
    charges, counted = _reported(ledger, report, span)
    rest = span - sum(charges.values())
    for kind, seconds in _unreported(current, ledger, report, rest).items():
        charges[kind] = charges.get(kind, 0) + seconds
    sums = {kind: getattr(ledger, kind) + charges.get(kind, 0) for kind in Goodput.KINDS}
    gpus = current.spec.workers.gpus
    held = before.workers.ready * span
    computing = sum(charges.get(kind, 0) for kind in _COMPUTING)
    step = ledger.step if report is None else report.step
    return Goodput(
        **sums,
        ratio=_ratio(sums),
        worker_seconds_held=ledger.worker_seconds_held + held,
        gpu_seconds_held=ledger.gpu_seconds_held + gpus * held,
        gpu_seconds_used=ledger.gpu_seconds_used + min(gpus * held, gpus * current.spec.workers.count * computing),
        until=until,
        launch=ledger.launch if report is None else report.launch,
        counted=counted,
        step=step,
        frontier=max(ledger.frontier, step),
    )


def _end(current: Pass, status: TrainingJobStatus) -> datetime:
    """Return up to when to charge: up to the end of the job, and while training runs only up to the newest report.

    What workers have held is charged before their number changes, and before a spent budget ends them.
    """
    now, received = current.now, current.received
    if status.finished_at is not None:
        return min(now, status.finished_at)
    resized = received is not None and status.workers.ready != current.job.status.workers.ready
    if status.phase != Phase.RUNNING or status.budget_spent_at is not None or resized:
        return now
    return current.job.created_at if received is None else min(now, received.at)


def _reported(ledger: Goodput, report: WorkerReport | None, span: int) -> tuple[dict[str, int], LaunchSeconds]:
    """Return what the report charges of so many seconds, and what of its launch has been charged with that.

    A report can say more than there is left to charge, since the moments of its sending and of its arrival differ. Time that
    is gone is not charged again.
    """
    if report is None or report.seconds is None:
        return {}, ledger.counted
    known = ledger.counted if report.launch == ledger.launch else LaunchSeconds()
    charges: dict[str, int] = {}
    counted: dict[str, float] = {}
    left = span
    for name in LaunchSeconds.model_fields:
        said = getattr(report.seconds, name)
        new = max(0, int(said - getattr(known, name)))
        taken = min(new, left)
        left -= taken
        # A fraction of a second is carried over to the next report.
        counted[name] = float(said if taken < new else getattr(known, name) + taken)
        if name == "training":
            replayed = round(taken * _replayed_share(ledger, report))
            charges |= {"training": taken - replayed, "replaying": replayed}
        else:
            charges[_REPORTED[name]] = taken
    return charges, LaunchSeconds(**counted)


def _replayed_share(ledger: Goodput, report: WorkerReport) -> float:
    """Return which share of the steps since the report before had been taken already, before a restart."""
    same = report.launch == ledger.launch
    begin = ledger.step if same else report.resumed_from_step or 0
    if report.step <= begin:
        return float(report.step < ledger.frontier)
    return max(0, min(report.step, ledger.frontier) - begin) / (report.step - begin)


def _unreported(current: Pass, ledger: Goodput, report: WorkerReport | None, seconds: int) -> Mapping[str, int]:
    """Return what the seconds are charged to that no report covers."""
    before = current.job.status
    if before.phase != Phase.RUNNING:
        return {_WAITS.get(before.phase, "pending"): seconds}
    if report is not None and report.launch != ledger.launch and ledger.launch is not None:
        # The processes were started again inside their pods. Rank 0 has reported a stall, unless it stood still itself.
        hung = report.relaunched is not None and report.relaunched.category == FailureClass.HANG
        return {"stalled" if hung and not ledger.counted.stalled else "restarting": seconds}
    # A report takes a moment to arrive, and a worker that reports no seconds trains: until its reports are overdue.
    training = min(seconds, int(current.observed.settings.stale_after))
    return {"training": training, "stalled": seconds - training}


def _ratio(seconds: Mapping[str, int]) -> float:
    active = sum(spent for kind, spent in seconds.items() if kind not in _INACTIVE)
    return round(seconds["training"] / active, 4) if active else 0.0


def _whole(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)


def worker_seconds(status: TrainingJobStatus, now: datetime) -> float:
    """Return for how many seconds workers have been held, all together, the time since the last entry included."""
    ledger = status.goodput
    if ledger is None:
        return 0.0
    return ledger.worker_seconds_held + status.workers.ready * max(timedelta(), now - ledger.until).total_seconds()
