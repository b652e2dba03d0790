"""The ledger of a job's time: every second since its creation is charged to one activity, exactly once.

The worker knows best: rank 0 reports how many seconds of its launch went into what, and what has been charged of that is
remembered, so that a report that comes twice, late, or after an operator was away adds what is new and nothing else. What
no report covers is charged to the phase that the status was in. While training runs, the ledger ends at the newest report:
the time since is charged by the next one, or when the phase ends without one. Silence is charged to nothing before that: it
may be the operator that could not listen. Seconds are whole: their sum is the time from creation to `until`, exactly.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from trainwright.api.exit_codes import FailureClass
from trainwright.api.spec import TrainingJobSpec
from trainwright.api.status import Goodput, LaunchSeconds, Phase, TrainingJobStatus
from trainwright.api.worker import WorkerReport
from trainwright.plan.types import Observed

_WAITS = {
    None: "pending",
    Phase.QUEUED: "queued",
    Phase.PENDING: "pending",
    Phase.STARTING: "starting",
    Phase.RESTARTING: "restarting",
    Phase.SUSPENDED: "suspended",
}
_REPORTED = {"loading": "starting"} | {kind: kind for kind in ("checkpointing", "evaluating", "stalled")}
"""What a worker's own words are charged to; its training is split into progress and replay."""
_INACTIVE = ("queued", "pending", "suspended")
_COMPUTING = ("training", "replaying", "evaluating")


def account(
    observed: Observed,
    spec: TrainingJobSpec,
    status: TrainingJobStatus,
    heard: tuple[WorkerReport, datetime] | None,
) -> Goodput:
    """Return the ledger as it is with the status that is about to be written.

    Args:
        observed: What the pass saw; its job's status holds the ledger and the phase that it was written in.
        spec: The job.
        status: The new status.
        heard: The newest report that counted in this pass, with the time of its arrival.
    """
    before = observed.job.status
    ledger = before.goodput or Goodput(until=_whole(min(observed.job.created_at, observed.now)))
    report, at = heard if heard is not None else (None, None)
    until = max(ledger.until, _whole(_end(observed, status, at)))
    span = int((until - ledger.until).total_seconds())
    charges, counted = _reported(ledger, report, span)
    rest = span - sum(charges.values())
    for kind, seconds in _unreported(observed, ledger, report, rest).items():
        charges[kind] = charges.get(kind, 0) + seconds
    sums = {kind: getattr(ledger, kind) + charges.get(kind, 0) for kind in Goodput.KINDS}
    gpus = gpus_per_worker(spec)
    held = before.workers.ready * span
    computing = sum(charges.get(kind, 0) for kind in _COMPUTING)
    step = ledger.step if report is None else report.step
    return Goodput(
        **sums,
        ratio=_ratio(sums),
        worker_seconds_held=ledger.worker_seconds_held + held,
        gpu_seconds_held=ledger.gpu_seconds_held + gpus * held,
        gpu_seconds_used=ledger.gpu_seconds_used + min(gpus * held, gpus * spec.workers.count * computing),
        until=until,
        launch=ledger.launch if report is None else report.launch,
        counted=counted,
        step=step,
        frontier=max(ledger.frontier, step),
    )


def _end(observed: Observed, status: TrainingJobStatus, at: datetime | None) -> datetime:
    """Return up to when to charge: up to the end of the job, and while training runs only up to the newest report.

    What workers have held is charged before there are others, and before those are gone that a spent budget ends.
    """
    if status.finished_at is not None:
        return min(observed.now, status.finished_at)
    others = at is not None and status.workers.ready != observed.job.status.workers.ready
    if status.phase != Phase.RUNNING or status.budget_spent_at is not None or others:
        return observed.now
    return observed.job.created_at if at is None else min(observed.now, at)


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
        # What does not make a whole second yet is left for the next report.
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


def _unreported(observed: Observed, ledger: Goodput, report: WorkerReport | None, seconds: int) -> Mapping[str, int]:
    """Return what time is charged to that no report covers."""
    before = observed.job.status
    if before.phase != Phase.RUNNING:
        return {_WAITS.get(before.phase, "pending"): seconds}
    if report is not None and report.launch != ledger.launch and ledger.launch is not None:
        # The processes were started again inside their pods. Rank 0 has told of a stall, unless it stood still itself.
        hung = report.relaunched is not None and report.relaunched.category == FailureClass.HANG
        return {"stalled" if hung and not ledger.counted.stalled else "restarting": seconds}
    # A report is a moment on its way, and a worker that says nothing of its time trains: up to where silence begins.
    training = min(seconds, int(observed.settings.stale_after))
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


def gpus_per_worker(spec: TrainingJobSpec) -> int:
    """Return the GPUs that one worker asks for, whoever made them."""
    resources = spec.workers.resources
    if resources is None:
        return 0
    asked = {**(resources.requests or {}), **(resources.limits or {})}
    devices = (amount for name, amount in asked.items() if _is_gpu(name.rpartition("/")[2]))
    return sum(int(amount) for amount in devices if str(amount).isdecimal())


def _is_gpu(resource: str) -> bool:
    """Return whether a resource is a GPU or a slice of one: nvidia.com/gpu, amd.com/gpu, nvidia.com/mig-1g.5gb."""
    return resource == "gpu" or resource.startswith(("gpu.", "mig-"))
